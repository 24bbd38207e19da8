//! Connections to PostgreSQL: libpq's parameters, TLS, and the session settings that the
//! write protocol relies on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use percent_encoding::percent_decode_str;
use postgres_openssl::MakeTlsConnector;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config};

/// Where the database is and how to get in.
#[derive(Clone)]
pub struct Database {
    config: Config,
    tls: MakeTlsConnector,
    session: Arc<str>,
}

/// libpq's TLS parameters that tokio-postgres leaves to its TLS library.
#[derive(Default)]
pub struct Tls {
    verify_ca: bool,
    verify_name: bool,
    root_cert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Database {
    /// Reads a URL or `key=value` string. `idle_limit` ends a transaction that a frozen process left open.
    pub fn parse(
        text: &str,
        connect_timeout: Duration,
        application: &str,
        idle_limit: Duration,
    ) -> Result<Self, String> {
        let mut tls = Tls::default();
        let mut mode = None;
        let rest = if text.contains("://") {
            without_tls_url(text, &mut tls, &mut mode)?
        } else {
            without_tls(text, &mut tls, &mut mode)?
        };
        let config: Config = rest
            .parse()
            .map_err(|error: tokio_postgres::Error| crate::error::chain(&error))?;
        Self::from_config(config, &tls, mode, connect_timeout, application, idle_limit)
    }

    /// From a ready configuration; `DB_HOST` and its like may hold any character.
    pub fn from_config(
        mut config: Config,
        tls: &Tls,
        mode: Option<SslMode>,
        connect_timeout: Duration,
        application: &str,
        idle_limit: Duration,
    ) -> Result<Self, String> {
        config.ssl_mode(mode.unwrap_or(SslMode::Prefer));
        config
            .connect_timeout(connect_timeout)
            .application_name(application);
        config
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5));
        config.tcp_user_timeout(Duration::from_secs(15));
        let session = format!(
            "SET search_path = pg_catalog; SET statement_timeout = 0; SET lock_timeout = 0; SET jit = off;
             SET default_transaction_isolation = 'read committed';
             SET idle_in_transaction_session_timeout = {};
             SET client_connection_check_interval = '1s';
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')",
            idle_limit.as_millis()
        );
        Ok(Self {
            config,
            tls: connector(tls)?,
            session: session.into(),
        })
    }

    /// The same, where no statement may take longer than `limit`.
    pub fn with_statement_limit(mut self, limit: Duration) -> Self {
        let limit = limit.as_millis();
        self.session = format!("{}; SET statement_timeout = {limit}", self.session).into();
        self
    }

    /// Host and port, for people.
    pub fn address(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => "localhost".into(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}")
    }

    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or("postgres")
    }

    /// A connection of its own, whose notices and notifications go to `on_message`.
    pub async fn connect(
        &self,
        on_message: impl Fn(AsyncMessage) + Send + 'static,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
        tokio::spawn(async move {
            // Ends with the client or with the server; the next statement says so.
            while let Some(Ok(message)) =
                std::future::poll_fn(|context| connection.poll_message(context)).await
            {
                on_message(message);
            }
        });
        client.batch_execute(&self.session).await?;
        Ok(client)
    }

    pub fn pool(&self, size: usize, wait: Duration) -> Result<Pool, String> {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.clone(),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let session = self.session.clone();
        let set_up = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let session = session.clone();
            Box::pin(async move {
                client
                    .batch_execute(&session)
                    .await
                    .map_err(HookError::Backend)
            })
        });
        Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(wait))
            .wait_timeout(None)
            .post_create(set_up)
            .build()
            .map_err(|error| error.to_string())
    }
}

fn set_tls(
    name: &str,
    value: &str,
    tls: &mut Tls,
    mode: &mut Option<SslMode>,
) -> Result<bool, String> {
    match name {
        "sslmode" => {
            *mode = Some(match value {
                "disable" => SslMode::Disable,
                "allow" | "prefer" => SslMode::Prefer,
                "require" | "verify-ca" | "verify-full" => SslMode::Require,
                other => {
                    return Err(format!(
                        "sslmode {other:?} is none of disable, allow, prefer, require, verify-ca, verify-full"
                    ));
                }
            });
            tls.verify_ca |= value.starts_with("verify");
            tls.verify_name |= value == "verify-full";
        }
        "sslrootcert" => tls.root_cert = Some(value.into()),
        "sslcert" => tls.cert = Some(value.into()),
        "sslkey" => tls.key = Some(value.into()),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Takes TLS parameters out of a URL's query; the rest stays as it was written.
fn without_tls_url(
    text: &str,
    tls: &mut Tls,
    mode: &mut Option<SslMode>,
) -> Result<String, String> {
    // A unix socket as percent-encoded host is no host for a URL parser: only the query is taken apart.
    let Some((base, query)) = text.split_once('?') else {
        return Ok(text.to_owned());
    };
    let mut rest = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // As libpq does: a plus sign is a plus sign.
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| format!("{name}: is not UTF-8"))?;
        if !set_tls(name, &value, tls, mode)? {
            rest.push(pair);
        }
    }
    Ok(if rest.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{}", rest.join("&"))
    })
}

fn without_tls(text: &str, tls: &mut Tls, mode: &mut Option<SslMode>) -> Result<String, String> {
    let mut rest = String::new();
    for (name, value) in words(text)? {
        if !set_tls(&name, &value, tls, mode)? {
            let value = value.replace('\\', r"\\").replace('\'', r"\'");
            rest.push_str(&format!("{name}='{value}' "));
        }
    }
    Ok(rest)
}

/// libpq's `name = value`: blanks around the sign, quotes around the value, a backslash before any character.
fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .ok_or_else(|| format!("{:?} has no '='", rest.trim_end()))?;
        let after = after.trim_start();
        let quoted = after.strip_prefix('\'');
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        let body = quoted.unwrap_or(after);
        for (at, character) in body.char_indices() {
            match character {
                _ if escaped => {
                    value.push(character);
                    escaped = false;
                }
                '\\' => escaped = true,
                '\'' if quoted.is_some() => {
                    end = Some(at + 1);
                    break;
                }
                blank if quoted.is_none() && blank.is_whitespace() => {
                    end = Some(at);
                    break;
                }
                _ => value.push(character),
            }
        }
        if end.is_none() && quoted.is_some() {
            return Err(format!(
                "the quote behind {:?} is never closed",
                name.trim()
            ));
        }
        words.push((name.trim().to_owned(), value));
        rest = body[end.unwrap_or(body.len())..].trim_start();
    }
    Ok(words)
}

fn connector(tls: &Tls) -> Result<MakeTlsConnector, String> {
    let error = |what: &str, error: openssl::error::ErrorStack| format!("{what}: {error}");
    let mut builder = SslConnector::builder(SslMethod::tls()).map_err(|e| error("TLS", e))?;
    if let Some(path) = &tls.root_cert {
        // Only what the user named is trusted, not the machine's own roots: verify-ca looks at no name.
        let only = openssl::x509::store::X509StoreBuilder::new()
            .map_err(|e| error("TLS", e))?
            .build();
        builder.set_cert_store(only);
        builder
            .set_ca_file(path)
            .map_err(|e| error(&format!("sslrootcert {}", path.display()), e))?;
    }
    if let Some(path) = &tls.cert {
        builder
            .set_certificate_chain_file(path)
            .map_err(|e| error(&format!("sslcert {}", path.display()), e))?;
    }
    if let Some(path) = &tls.key {
        builder
            .set_private_key_file(path, SslFiletype::PEM)
            .map_err(|e| error(&format!("sslkey {}", path.display()), e))?;
    }
    // As libpq does: a root certificate given is a certificate checked.
    let verify = tls.verify_ca || tls.root_cert.is_some();
    builder.set_verify(if verify {
        SslVerifyMode::PEER
    } else {
        SslVerifyMode::NONE
    });
    let mut connector = MakeTlsConnector::new(builder.build());
    let verify_name = tls.verify_name;
    connector.set_callback(move |config, _| {
        config.set_verify_hostname(verify_name);
        Ok(())
    });
    Ok(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Database::parse(text, Duration::from_secs(1), "test", Duration::ZERO)
            .map(|database| database.config)
    }

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        let config =
            parse("postgres://u:p%40ss+word@h:6543/d?options=-c+x%3D1&sslmode=disable").unwrap();
        assert_eq!(config.get_password(), Some(&b"p@ss+word"[..]));
        assert_eq!(config.get_options(), Some("-c+x=1"));
        assert_eq!(config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(config.get_ports(), [6543]);
    }

    #[test]
    fn words_are_read_as_libpq_reads_them() {
        let config =
            parse(r"host = h  password='a \' b  c' dbname=d\ e sslmode = 'require' user=u")
                .unwrap();
        assert_eq!(config.get_password(), Some(&b"a ' b  c"[..]));
        assert_eq!(config.get_dbname(), Some("d e"));
        assert_eq!(config.get_user(), Some("u"));
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (text, part) in [
            ("host=h sslmode=maybe", "sslmode \"maybe\""),
            ("host=h password='open", "\"password\" is never closed"),
            ("host", "\"host\" has no '='"),
            ("postgres://h/d?sslrootcert=%FF", "sslrootcert"),
            ("postgres://h/d?sslrootcert=/no/such/file", "/no/such/file"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
