//! What `--help` shows of settings that are no flags, and variables that are empty.

use crate::config::secrets::secret_of;

const SECRETS_HELP: &str = "\
Secrets, each from the environment or from the file that NAME_FILE names, never from the command line:";

const KAFKA_HELP: &str = "\
Properties of librdkafka, from the environment as KAFKA_NAME or the file that KAFKA_NAME_FILE names; for TLS and SASL:
  PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL [env: KAFKA_SECURITY_PROTOCOL]
  File of the CA that must have signed the brokers' certificates; without: whom the machine trusts [env: KAFKA_SSL_CA_LOCATION]
  File of our certificate, where the brokers ask for one [env: KAFKA_SSL_CERTIFICATE_LOCATION]
  File of its key [env: KAFKA_SSL_KEY_LOCATION]
  PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 [env: KAFKA_SASL_MECHANISM]
  Login [env: KAFKA_SASL_USERNAME]
  Password; better KAFKA_SASL_PASSWORD_FILE [env: KAFKA_SASL_PASSWORD]";

/// Shows secrets apart from the flags that they are not.
pub fn with_secrets_apart(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|command| {
        let mut help = String::new();
        for argument in command.get_arguments() {
            if let Some(name) = secret_of(argument) {
                let what = argument.get_help().map(ToString::to_string);
                help += &format!("\n  {} [env: {name}]", what.unwrap_or_default());
            }
        }
        if help.is_empty() {
            return command;
        }
        let reads_kafka = command
            .get_arguments()
            .any(|argument| argument.get_id() == "kafka_brokers");
        let kafka = if reads_kafka {
            format!("\n\n{KAFKA_HELP}")
        } else {
            String::new()
        };
        command
            .mut_args(|argument| match secret_of(&argument) {
                Some(_) => argument.hide(true),
                None => argument,
            })
            .after_help(format!("{SECRETS_HELP}{help}{kafka}"))
    })
}

/// An empty variable, as compose files and charts write "not set", is not set; topics may be none.
pub fn without_empty_variables(command: clap::Command) -> clap::Command {
    let heed = |argument: clap::Arg| {
        let is_empty = argument
            .get_env()
            .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
        if is_empty
            && !["BALANCE_TOPICS", "EVENT_TOPICS", "DLQ_TOPIC"]
                .map(Some)
                .contains(&argument.get_env().and_then(|name| name.to_str()))
        {
            argument.env(None::<&'static str>)
        } else {
            argument
        }
    };
    command
        .mut_args(heed)
        .mut_subcommands(|command| command.mut_args(heed))
}
