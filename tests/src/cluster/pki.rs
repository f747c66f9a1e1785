//! Certificates and keys of a control plane.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A CA, the server's certificate, an administrator's, and the key of service account tokens.
#[derive(Debug)]
pub struct Pki {
    /// Where the files lie.
    pub folder: PathBuf,
    /// The key that signs service account tokens (ECDSA P-256).
    pub service_account_key: KeyPair,
}

impl Pki {
    /// Makes everything in a folder.
    pub fn create(folder: &Path) -> Result<Self> {
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "testbed-ca");
        ca.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        write(folder, "ca.crt", &ca.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(ca, key);

        let mut server = CertificateParams::new(vec![
            "127.0.0.1".to_owned(),
            "10.96.0.1".to_owned(),
            "localhost".to_owned(),
            "kubernetes.default.svc".to_owned(),
        ])?;
        server
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        issue(folder, "apiserver", &server, &issuer)?;

        let mut admin = CertificateParams::new(Vec::new())?;
        admin.distinguished_name.push(DnType::CommonName, "admin");
        admin
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(folder, "admin", &admin, &issuer)?;

        let service_account_key = KeyPair::generate()?;
        write(folder, "sa.key", &service_account_key.serialize_pem())?;
        write(folder, "sa.pub", &service_account_key.public_key_pem())?;
        Ok(Self {
            folder: folder.to_owned(),
            service_account_key,
        })
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn issue(
    folder: &Path,
    name: &str,
    params: &CertificateParams,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    write(folder, &format!("{name}.crt"), &certificate.pem())?;
    write(folder, &format!("{name}.key"), &key.serialize_pem())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let file = folder.join(name);
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}
