//! Service account tokens that end when a test wants: the API's own live ten minutes at least.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rcgen::{KeyPair, SigningKey};
use serde_json::json;

/// Who a token speaks for.
#[derive(Clone, Debug)]
pub struct ServiceAccountToken {
    /// Namespace of the account.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a token for an earlier account of that name is refused.
    pub uid: String,
}

/// The issuer that the API server is started with.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc";

/// The API server lets a token live this much longer than it says, for clocks that differ.
const LEEWAY: u64 = 60;

impl ServiceAccountToken {
    /// Signs a token that the API server takes for `life` from now (whole seconds; it also remembers
    /// a good answer for 10 s).
    pub fn sign(&self, key: &KeyPair, life: Duration) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({ "alg": "ES256", "typ": "JWT" });
        let issued = now - 2 * LEEWAY;
        let claims = json!({
            "iss": ISSUER,
            "aud": [ISSUER],
            "sub": format!("system:serviceaccount:{}:{}", self.namespace, self.name),
            "iat": issued,
            "nbf": issued,
            "exp": now + life.as_secs() - LEEWAY,
            "kubernetes.io": {
                "namespace": self.namespace,
                "serviceaccount": { "name": self.name, "uid": self.uid },
            },
        });
        let signed = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let signature = raw_signature(&key.sign(signed.as_bytes())?)?;
        Ok(format!("{signed}.{}", base64url(&signature)))
    }
}

/// ASN.1 `SEQUENCE { r, s }` -> the 64 bytes of JWS.
fn raw_signature(der: &[u8]) -> Result<Vec<u8>> {
    let body = der.get(2..).context("a signature")?;
    let (r, rest) = integer(body)?;
    let (s, _) = integer(rest)?;
    Ok([r, s].concat())
}

/// The first ASN.1 INTEGER as 32 bytes, and what follows.
fn integer(der: &[u8]) -> Result<([u8; 32], &[u8])> {
    let (head, rest) = der.split_at_checked(2).context("an integer")?;
    ensure!(head.first() == Some(&2), "not an integer");
    let length = usize::from(*head.last().context("a length")?);
    let (digits, rest) = rest.split_at_checked(length).context("the digits")?;
    let digits = digits.strip_prefix(&[0]).unwrap_or(digits);
    let mut fixed = [0; 32];
    let start = fixed.len().checked_sub(digits.len()).context("too long")?;
    if let Some(tail) = fixed.get_mut(start..) {
        tail.copy_from_slice(digits);
    }
    Ok((fixed, rest))
}

/// RFC 4648 section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group
            .iter_mut()
            .zip(chunk)
            .for_each(|(to, from)| *to = *from);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..=chunk.len() {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.extend(DIGITS.get(index as usize).map(|digit| char::from(*digit)));
        }
    }
    text
}
