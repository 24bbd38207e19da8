//! Connections to PostgreSQL: libpq's parameters, TLS, and the session settings that the
//! write protocol relies on.

use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::SslVerifyMode;
use percent_encoding::percent_decode_str;
use postgres_openssl::MakeTlsConnector;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config};

use crate::{tls, words};

/// The TLS parameters of an address, and what to change when a handshake fails.
pub const TLS_NAMES: tls::Names = tls::Names {
    ca: "sslrootcert (DB_SSLROOTCERT)",
    certificate: "sslcert (DB_SSLCERT)",
    key: "sslkey (DB_SSLKEY)",
    host: "the host of DATABASE_URL (DB_HOST)",
};

/// The parameters of an address that tokio-postgres knows, besides those of TLS.
const PARAMETERS: [&str; 18] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// Whether the server takes no writes.
pub const IS_READ_ONLY: &str =
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";

/// The address of the database and the login.
#[derive(Clone)]
pub struct Database {
    config: Config,
    tls: MakeTlsConnector,
    session: Arc<str>,
}

/// libpq's TLS parameters, which tokio-postgres leaves to its TLS library.
#[derive(Clone, Default)]
pub struct Tls {
    mode: Option<SslMode>,
    verify_ca: bool,
    verify_name: bool,
    files: tls::Files,
}

impl Tls {
    /// Applies a parameter; false if it is not a TLS parameter.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "sslmode" => {
                self.mode = Some(match value {
                    "disable" => SslMode::Disable,
                    "allow" | "prefer" => SslMode::Prefer,
                    "require" | "verify-ca" | "verify-full" => SslMode::Require,
                    _ => {
                        return Err("sslmode is none of disable, allow, prefer, require, verify-ca, verify-full".to_owned());
                    }
                });
                self.verify_ca = value.starts_with("verify");
                self.verify_name = value == "verify-full";
            }
            "sslrootcert" => self.files.ca = Some(value.into()),
            "sslcert" => self.files.certificate = Some(value.into()),
            "sslkey" => self.files.key = Some(value.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn connector(&self) -> Result<MakeTlsConnector, String> {
        let mut builder = self.files.connector(&TLS_NAMES)?;
        // As in libpq: if a root certificate is given, certificates are checked.
        let verify = self.verify_ca || self.files.ca.is_some();
        builder.set_verify(if verify {
            SslVerifyMode::PEER
        } else {
            SslVerifyMode::NONE
        });
        let mut connector = MakeTlsConnector::new(builder.build());
        let verify_name = self.verify_name;
        connector.set_callback(move |config, _| {
            config.set_verify_hostname(verify_name);
            Ok(())
        });
        Ok(connector)
    }
}

impl Database {
    /// Parses a URL or `key=value` string; `tls` applies if the address has no TLS parameters.
    /// `idle_limit` ends a transaction that a frozen process left open.
    /// An address may contain a password anywhere, so no error quotes from it.
    pub fn parse(
        text: &str,
        tls: &Tls,
        connect_timeout: Duration,
        application: &str,
        idle_limit: Duration,
    ) -> Result<Self, String> {
        let mut tls = tls.clone();
        let rest = if text.contains("://") {
            without_tls_url(text, &mut tls)?
        } else {
            without_tls(text, &mut tls)?
        };
        let config: Config = rest
            .parse()
            .map_err(|error: tokio_postgres::Error| unreadable(&error))?;
        let has_at = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(has_at) {
            return Err("an @ in user name or password must be written as %40".to_owned());
        }
        Self::from_config(config, &tls, connect_timeout, application, idle_limit)
    }

    /// From a complete configuration; `DB_HOST` and the like may contain any character.
    pub fn from_config(
        mut config: Config,
        tls: &Tls,
        connect_timeout: Duration,
        application: &str,
        idle_limit: Duration,
    ) -> Result<Self, String> {
        config.ssl_mode(tls.mode.unwrap_or(SslMode::Prefer));
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
            tls: tls.connector()?,
            session: session.into(),
        })
    }

    /// The same, where no statement may take longer than `limit`.
    pub fn with_statement_limit(mut self, limit: Duration) -> Self {
        let limit = limit.as_millis();
        self.session = format!("{}; SET statement_timeout = {limit}", self.session).into();
        self
    }

    /// The same, where times are told and read in UTC unless they name a zone: for people, wherever the server is.
    pub fn in_utc(mut self) -> Self {
        self.session = format!("{}; SET timezone = 'UTC'", self.session).into();
        self
    }

    /// Domain events that are larger than this are dead; balance events are checked before they are sent.
    pub fn limit_events(mut self, max_event_bytes: usize) -> Self {
        let limit = format!(
            "SET {} = {max_event_bytes};",
            ledger::contract::MAX_EVENT_BYTES_SETTING
        );
        self.session = format!("{limit} {}", self.session).into();
        self
    }

    /// Host and port, for people.
    pub fn address(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".into(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}")
    }

    /// The database's name, where it is given.
    pub fn name(&self) -> Option<&str> {
        self.config.get_dbname()
    }

    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or("postgres")
    }

    /// A connection of its own, whose notices and notifications go to `on_message`.
    /// The caller sets the bound: `connect_timeout` covers only TCP.
    pub async fn connect(
        &self,
        on_message: impl Fn(AsyncMessage) + Send + 'static,
    ) -> Result<Client, tokio_postgres::Error> {
        self.open(on_message).await.map(|(client, _)| client)
    }

    /// The same, with the task that serves it.
    pub async fn open(
        &self,
        on_message: impl Fn(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            // Ends with the client or with the server; the next statement reports it.
            while let Some(Ok(message)) =
                std::future::poll_fn(|context| connection.poll_message(context)).await
            {
                on_message(message);
            }
        });
        client.batch_execute(&self.session).await?;
        Ok((client, task))
    }
}

/// Why an address cannot be read, without a word of it: the name of a parameter that tokio-postgres knows, at most.
fn unreadable(error: &tokio_postgres::Error) -> String {
    let raw = words::raw(error);
    let option = raw.split_once("invalid value for option `");
    match option.and_then(|(_, rest)| rest.split_once('`')) {
        Some((name, _)) if PARAMETERS.contains(&name) => {
            format!("the value of {name} cannot be used")
        }
        _ => "not of the form postgres://user:password@host:port/database; in user name and password @ is written as %40, \
              : as %3A, / as %2F and % as %25"
            .to_owned(),
    }
}

/// Removes TLS parameters from a URL's query; the rest is unchanged.
fn without_tls_url(text: &str, tls: &mut Tls) -> Result<String, String> {
    // A URL parser refuses a unix socket as percent-encoded host, so only the query is parsed.
    // A password before the @ may contain a question mark.
    let query_at = text.find('@').unwrap_or(0);
    let Some(mark) = text[query_at..].find('?') else {
        return Ok(text.to_owned());
    };
    let (base, query) = text.split_at(query_at + mark);
    let mut rest = Vec::new();
    for (pair, nth) in query[1..].split('&').zip(1..) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // As in libpq: a plus sign is a plus sign.
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| format!("parameter {nth} is not UTF-8"))?;
        if !tls.set(name, &value)? {
            known(name, nth)?;
            rest.push(pair);
        }
    }
    Ok(if rest.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{}", rest.join("&"))
    })
}

fn without_tls(text: &str, tls: &mut Tls) -> Result<String, String> {
    let mut rest = String::new();
    for ((name, value), nth) in words(text)?.into_iter().zip(1..) {
        if !tls.set(&name, &value)? {
            known(&name, nth)?;
            let value = value.replace('\\', r"\\").replace('\'', r"\'");
            rest.push_str(&format!("{name}='{value}' "));
        }
    }
    Ok(rest)
}

/// What is unknown may be half a password, so it is counted instead of quoted.
fn known(name: &str, nth: usize) -> Result<(), String> {
    if PARAMETERS.contains(&name) {
        return Ok(());
    }
    let names = PARAMETERS.join(", ");
    Err(format!(
        "parameter {nth} is none of {names}, sslmode, sslrootcert, sslcert, sslkey"
    ))
}

/// libpq's `name = value`: blanks around the sign, quotes around the value, a backslash before any character.
fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let nth = words.len() + 1;
        let (name, after) = rest.split_once('=').ok_or_else(|| {
            format!("neither postgres://user:password@host:port/database nor name=value: parameter {nth} has no '='")
        })?;
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
            return Err(format!("the quote of parameter {nth} is never closed"));
        }
        words.push((name.trim().to_owned(), value));
        rest = body[end.unwrap_or(body.len())..].trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(text: &str, tls: &Tls) -> Result<Config, String> {
        Database::parse(text, tls, Duration::from_secs(1), "test", Duration::ZERO)
            .map(|database| database.config)
    }

    fn parse(text: &str) -> Result<Config, String> {
        parse_with(text, &Tls::default())
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
    fn what_an_address_does_not_say_of_tls_is_said_elsewhere() {
        let mut tls = Tls::default();
        assert_eq!(tls.set("sslmode", "verify-full"), Ok(true));
        assert_eq!(tls.set("host", "h"), Ok(false));
        let said = |text: &str| parse_with(text, &tls).unwrap().get_ssl_mode();
        assert_eq!(said("postgres://h/d"), SslMode::Require);
        assert_eq!(said("host=h"), SslMode::Require);
        assert_eq!(said("postgres://h/d?sslmode=disable"), SslMode::Disable);
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (text, part) in [
            ("host=h sslmode=maybe", "sslmode"),
            ("host=h password='open", "parameter 2 is never closed"),
            ("host", "parameter 1 has no '='"),
            ("host=h hots=g", "parameter 2 is none of host,"),
            ("postgres://h/d?sslrootcert=%FF", "parameter 1"),
            ("postgres://h/d?sslrootcert=/no/such/file", "/no/such/file"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn no_error_quotes_what_may_be_a_password() {
        for text in [
            "canary",
            "host=h password=my canary",
            "host=h password=my canary=1",
            "host=h password='canary",
            "password=canary port=canary",
            "postgres://u:my@canary@h/d",
            "postgres://u:canary@h:canary/d",
            "postgres://u:p@h/d?canary=1",
            "postgres://u:p@h/d?canary",
            "postgres://u:p@h/d?canary=%FF",
            "postgres://u:p@h/d?sslmode=canary",
            "postgres://u:p@h/d?port=canary",
            "canary://u:p@h/d",
        ] {
            let error = parse(text).expect_err(text);
            assert!(!error.contains("canary"), "{text}: {error}");
        }
        let config = parse("postgres://u:can?ary@h/d?sslmode=require").unwrap();
        assert_eq!(config.get_password(), Some(&b"can?ary"[..]));
    }
}
