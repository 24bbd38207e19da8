//! Settings that may hold a secret: where they may stand, and where they must not.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::config::setting::{BadSetting, bad};
use crate::words::of_io;

/// A text that neither log nor error quotes.
#[derive(Clone)]
pub struct Secret(pub(super) String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Settings that may hold a secret. Each comes from the environment, or from the file that `<NAME>_FILE`
/// names, as secrets are mounted; never from the command line, which every user of a machine can read.
pub(super) const SECRETS: [&str; 7] = [
    "DATABASE_URL",
    "ADMIN_DATABASE_URL",
    "OPERATOR_DATABASE_URL",
    "ADMIN_TOKEN",
    "DB_PASSWORD",
    "REDIS_URL",
    "REDIS_PASSWORD",
];

/// Whether a setting may hold a secret.
pub fn is_secret(name: &str) -> bool {
    SECRETS.contains(&name)
}

pub(super) fn secret_of(argument: &clap::Arg) -> Option<&'static str> {
    let name = argument.get_env()?.to_str()?;
    SECRETS.into_iter().find(|secret| *secret == name)
}

/// Takes secrets from the files that the environment names.
pub fn with_secret_files(command: clap::Command) -> Result<clap::Command, BadSetting> {
    let mut secrets: BTreeMap<&str, String> = BTreeMap::new();
    for name in SECRETS {
        let setting = format!("{name}_FILE");
        if let Some(path) = std::env::var_os(&setting).filter(|path| !path.is_empty()) {
            if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
                return Err(both_set(&setting, name));
            }
            secrets.insert(name, read_secret(&setting, Path::new(&path))?);
        }
    }
    let heed = |argument: clap::Arg| match secret_of(&argument).and_then(|name| secrets.get(name)) {
        Some(secret) => argument.default_value(secret.clone()),
        None => argument,
    };
    Ok(command.mut_subcommands(|command| command.mut_args(heed)))
}

/// Refuses a secret on the command line, and says where it belongs.
pub fn refuse_secrets_in(matches: &ArgMatches) -> Result<(), BadSetting> {
    let mut matches = Some(matches);
    while let Some(level) = matches {
        for id in level.ids() {
            let name = id.as_str().to_uppercase();
            if SECRETS.contains(&name.as_str())
                && level.value_source(id.as_str()) == Some(ValueSource::CommandLine)
            {
                return Err(bad(
                    &name,
                    format!(
                        "every user of this machine can read a command line: set {name} or {name}_FILE in the environment instead"
                    ),
                ));
            }
        }
        matches = level.subcommand().map(|(_, below)| below);
    }
    Ok(())
}

pub(super) fn both_set(file: &str, name: &str) -> BadSetting {
    bad(file, format!("{name} is set, too: unset one of them"))
}

/// What the file says that `setting` names, without the line end that editors leave.
pub(super) fn read_secret(setting: &str, path: &Path) -> Result<String, BadSetting> {
    let secret = std::fs::read_to_string(path).map_err(|error| {
        bad(
            setting,
            format!("cannot read {}: {}", path.display(), of_io(&error)),
        )
    })?;
    Ok(secret.trim_end_matches(['\r', '\n']).to_owned())
}
