//! Kubernetes API types -> model, with the API server's validation.
