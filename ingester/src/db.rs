//! Connections to PostgreSQL: libpq's parameters, TLS, and the session settings that the
//! write protocol relies on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use postgres_openssl::MakeTlsConnector;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config};
use url::Url;

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

fn without_tls_url(
    text: &str,
    tls: &mut Tls,
    mode: &mut Option<SslMode>,
) -> Result<String, String> {
    // A unix socket as percent-encoded host is no host for a URL parser: only the query is taken apart.
    let Some((base, query)) = text.split_once('?') else {
        return Ok(text.to_owned());
    };
    let pairs = Url::parse(&format!("x://x?{query}")).map_err(|error| error.to_string())?;
    let mut rest = Vec::new();
    for (name, value) in pairs.query_pairs() {
        if !set_tls(&name, &value, tls, mode)? {
            rest.push(
                url::form_urlencoded::Serializer::new(String::new())
                    .append_pair(&name, &value)
                    .finish()
                    .replace('+', "%20"),
            );
        }
    }
    Ok(if rest.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{}", rest.join("&"))
    })
}

fn without_tls(text: &str, tls: &mut Tls, mode: &mut Option<SslMode>) -> Result<String, String> {
    let mut rest = Vec::new();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if !set_tls(name, value.trim_matches('\''), tls, mode)? {
            rest.push(word);
        }
    }
    Ok(rest.join(" "))
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
