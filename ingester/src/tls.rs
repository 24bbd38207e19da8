//! TLS by OpenSSL, the one that librdkafka uses as well: who is trusted, who we are, and what
//! a failed handshake asks the operator to change.

use std::path::PathBuf;

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslFiletype, SslMethod};
use openssl::x509::store::X509StoreBuilder;

use crate::words::of_io;

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
        let error = |error: ErrorStack| format!("TLS: {}", words(&error.to_string()));
        let unusable = |name: &str, path: &PathBuf| {
            let place = format!("{name} {}", path.display());
            // OpenSSL tells a file that it cannot open by five errors.
            let unread = std::fs::read(path).err();
            move |error: ErrorStack| match unread {
                Some(unread) => format!("{place}: {}", of_io(&unread)),
                None => format!(
                    "{place}: not in PEM as it is needed there: {}",
                    words(&error.to_string())
                ),
            }
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

/// What OpenSSL means by an error or a queue of them, as it, postgres-openssl and librdkafka write it down: its reasons and what
/// it found out about a certificate, without its functions, numbers and source files.
pub fn words(text: &str) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let (mut verified, mut rest) = ("", text);
    while let Some(at) = rest.find("error:") {
        // error:0A000086:library:function:reason:file:line:data
        let mut fields = rest[at..].splitn(6, ':').skip(4);
        let reason = fields.next().unwrap_or_default().trim();
        rest = fields.next().unwrap_or_default();
        let reason = reason.split(", ").next().unwrap_or_default();
        if !reason.is_empty() && !reasons.contains(&reason) {
            reasons.push(reason);
        }
        verified = rest.rsplit(':').next().unwrap_or_default().trim();
    }
    match reasons.is_empty() {
        true => text
            .split(" (os error")
            .next()
            .unwrap_or_default()
            .to_owned(),
        false if is_about_a_certificate(verified) => format!("{}: {verified}", reasons.join(", ")),
        false => reasons.join(", "),
    }
}

/// Whether this is what OpenSSL says of a certificate that it does not take, and no data of an error.
fn is_about_a_certificate(text: &str) -> bool {
    let words = ["certificate", "mismatch", "issuer", "self-signed", "CRL"];
    words.iter().any(|word| text.contains(word)) && !text.contains('/')
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
    fn a_failed_handshake_is_told_without_the_source_files_of_openssl() {
        for (error, told) in [
            (
                "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:\
                 ../ssl/statem/statem_clnt.c:1889:: hostname mismatch",
                "certificate verify failed: hostname mismatch",
            ),
            (
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be \
                 verified, verify that ssl.ca.location is correctly configured",
                "certificate verify failed: broker certificate could not be verified, verify that ssl.ca.location is correctly \
                 configured",
            ),
            (
                "error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca:../ssl/record/rec_layer_s3.c:1586:SSL alert number 48",
                "tlsv1 alert unknown ca",
            ),
            ("server does not support TLS", "server does not support TLS"),
        ] {
            assert_eq!(words(error), told);
        }
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
