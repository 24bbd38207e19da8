//! TLS by OpenSSL, the one that librdkafka uses as well: who is trusted, who we are, and what
//! a failed handshake asks the operator to change.

use std::path::PathBuf;

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslFiletype, SslMethod};
use openssl::x509::store::X509StoreBuilder;

/// Files in PEM.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Who may have signed the server's certificate; otherwise whom the machine trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate, where the server asks for one, and its key.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// How the settings of one server are called.
pub struct Names {
    pub ca: &'static str,
    pub certificate: &'static str,
    pub key: &'static str,
    pub host: &'static str,
}

impl Files {
    pub fn are_given(&self) -> bool {
        [&self.ca, &self.certificate, &self.key]
            .iter()
            .any(|file| file.is_some())
    }

    /// The server's certificate and name are checked, unless the caller takes that back.
    pub fn connector(&self, names: &Names) -> Result<SslConnectorBuilder, String> {
        let error = |error: ErrorStack| format!("TLS: {error}");
        let unusable = |name: &str, path: &PathBuf| {
            let place = format!("{name} {}", path.display());
            move |error: ErrorStack| format!("{place}: {error}")
        };
        let mut builder = SslConnector::builder(SslMethod::tls()).map_err(error)?;
        if let Some(path) = &self.ca {
            // Only what the user named is trusted, not the machine's own roots.
            builder.set_cert_store(X509StoreBuilder::new().map_err(error)?.build());
            builder
                .set_ca_file(path)
                .map_err(unusable(names.ca, path))?;
        }
        if let Some(path) = &self.certificate {
            builder
                .set_certificate_chain_file(path)
                .map_err(unusable(names.certificate, path))?;
        }
        if let Some(path) = &self.key {
            builder
                .set_private_key_file(path, SslFiletype::PEM)
                .map_err(unusable(names.key, path))?;
        }
        Ok(builder)
    }
}

/// What to change where a handshake ended with these words, if it is known.
pub fn advice(error: &str, names: &Names) -> Option<String> {
    let Names {
        ca,
        certificate,
        key,
        host,
    } = names;
    let says = |words: &[&str]| words.iter().any(|words| error.contains(words));
    if says(&["hostname mismatch", "IP address mismatch"]) {
        Some(format!(
            "the server's certificate is not for this host: {host} must name one that stands in it"
        ))
    } else if says(&["certificate has expired", "certificate is not yet valid"]) {
        Some("renew the server's certificate, or set this machine's clock".to_owned())
    } else if says(&["alert certificate required", "alert handshake failure"]) {
        Some(format!(
            "the server wants a certificate of ours: {certificate} and {key} must name one that it trusts"
        ))
    } else if says(&["alert unknown ca", "alert bad certificate"]) {
        Some(format!(
            "the server does not trust our certificate: {certificate} and {key} must name one that it does"
        ))
    } else if says(&["self-signed certificate", "issuer certificate"]) {
        Some(format!(
            "the server's certificate is not signed by whom we trust: {ca} must name the CA that signed it"
        ))
    } else if says(&["certificate verify failed"]) {
        // librdkafka does not say why.
        Some(format!(
            "the server's certificate is refused: {ca} must name the CA that signed it, and {host} a host that stands in it"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names {
        ca: "X_CA",
        certificate: "X_CERT",
        key: "X_KEY",
        host: "X_HOST",
    };

    #[test]
    fn a_failed_handshake_names_what_to_change() {
        for (error, names) in [
            ("certificate verify failed: hostname mismatch", "X_HOST"),
            ("certificate verify failed: IP address mismatch", "X_HOST"),
            ("unable to get local issuer certificate", "X_CA"),
            ("self-signed certificate in certificate chain", "X_CA"),
            (
                "certificate verify failed: broker certificate could not",
                "X_CA",
            ),
            (
                "certificate verify failed: broker certificate could not",
                "X_HOST",
            ),
            ("tlsv13 alert certificate required", "X_KEY"),
            ("tlsv1 alert unknown ca", "X_CERT"),
            ("certificate has expired", "clock"),
        ] {
            let advice = advice(error, &NAMES).expect(error);
            assert!(advice.contains(names), "{error}: {advice}");
        }
        assert_eq!(advice("connection refused", &NAMES), None);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_setting() {
        let files = |ca: &str, key: &str| Files {
            ca: (!ca.is_empty()).then(|| ca.into()),
            certificate: None,
            key: (!key.is_empty()).then(|| key.into()),
        };
        for (files, name) in [
            (files("/no/such/ca", ""), "X_CA /no/such/ca"),
            (files("", "/no/such/key"), "X_KEY /no/such/key"),
        ] {
            let error = files.connector(&NAMES).map(drop).expect_err(name);
            assert!(error.starts_with(name), "{error}");
        }
    }
}
