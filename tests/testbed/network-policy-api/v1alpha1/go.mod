// The CRDs of policy.networking.k8s.io/v1alpha1 for the tests of polproof: a tests-only module of which only YAML files are read.
module polproof/testbed/network-policy-api/v1alpha1

go 1.26.0

require sigs.k8s.io/network-policy-api v0.1.7
