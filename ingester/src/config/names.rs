//! Variables of the environment that no setting is called by, and that look as if one was meant.

use std::collections::BTreeMap;

/// As other programs call the same.
const ELSEWHERE: [(&str, &str); 3] = [
    ("DB_USER", "DB_USERNAME"),
    ("DB_NAME", "DB_DATABASE"),
    ("DB_PASS", "DB_PASSWORD"),
];

/// Shorter names are too easily something else's.
const SHORTEST: usize = 8;

/// A variable that is not read, and the setting that it looks like.
#[derive(Debug, PartialEq, Eq)]
pub struct NearMiss {
    pub name: String,
    pub setting: String,
}

impl NearMiss {
    pub fn told(&self) -> String {
        let Self { name, setting } = self;
        format!("{name} is not a setting, and is ignored: is {setting} meant?")
    }
}

/// Those of `environment` that look like a setting of any command.
pub fn near_misses(
    command: &clap::Command,
    environment: impl Iterator<Item = String>,
) -> Vec<NearMiss> {
    let known = known(command);
    let mut misses: Vec<NearMiss> = environment
        .filter(|name| !known.contains_key(name))
        .filter_map(|name| {
            let setting = meant(&name, &known)?;
            Some(NearMiss { name, setting })
        })
        .collect();
    misses.sort_by(|a, b| a.name.cmp(&b.name));
    misses
}

/// All settings, each with its letters alone.
fn known(command: &clap::Command) -> BTreeMap<String, String> {
    let commands = std::iter::successors(Some(vec![command]), |level| {
        let below: Vec<_> = level
            .iter()
            .flat_map(|command| command.get_subcommands())
            .collect();
        (!below.is_empty()).then_some(below)
    });
    let arguments = commands.flatten().flat_map(clap::Command::get_arguments);
    let names = arguments.filter_map(|argument| argument.get_env()?.to_str());
    let files = super::secrets::SECRETS.map(|name| format!("{name}_FILE"));
    names
        .map(str::to_owned)
        .chain(files)
        .map(|name| (name.clone(), letters(&name)))
        .collect()
}

fn meant(name: &str, known: &BTreeMap<String, String>) -> Option<String> {
    if let Some((_, setting)) = ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == name) {
        return Some((*setting).to_owned());
    }
    let given = letters(name);
    let bare = given.strip_prefix("SLUICE").unwrap_or(&given);
    let same = known.iter().find(|(_, letters)| letters.as_str() == bare);
    let near = || {
        let is_numbered = given.ends_with(|c: char| c.is_ascii_digit());
        known.iter().find(|(_, letters)| {
            letters.len() >= SHORTEST && !is_numbered && is_one_slip(&given, letters)
        })
    };
    let (setting, _) = same.or_else(near)?;
    Some(setting.clone())
}

fn letters(name: &str) -> String {
    name.to_uppercase().replace(['_', '-', '.'], "")
}

/// One letter too many, too few or wrong, or two that stand the wrong way round.
fn is_one_slip(given: &str, meant: &str) -> bool {
    let (given, meant): (Vec<char>, Vec<char>) = (given.chars().collect(), meant.chars().collect());
    let same = given.iter().zip(&meant).take_while(|(a, b)| a == b).count();
    let (given, meant) = (&given[same..], &meant[same..]);
    match given.len() as isize - meant.len() as isize {
        0 => {
            given.get(1..) == meant.get(1..)
                || given.len() > 1
                    && given[0] == meant[1]
                    && given[1] == meant[0]
                    && given[2..] == meant[2..]
        }
        1 => given[1..] == *meant,
        -1 => *given == meant[1..],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> clap::Command {
        let setting = |name: &'static str| clap::Arg::new(name).long(name).env(name);
        let names = [
            "BATCH_SIZE",
            "PORT",
            "DATABASE_URL",
            "DB_USERNAME",
            "KAFKA_BROKERS",
        ];
        let run = clap::Command::new("run").args(names.map(setting));
        clap::Command::new("sluice").subcommand(run)
    }

    #[test]
    fn an_unknown_setting_that_looks_like_one_of_ours_is_named() {
        let meant = |name: &str| {
            let misses = near_misses(&command(), std::iter::once(name.to_owned()));
            misses.into_iter().next().map(|miss| miss.setting)
        };
        for (name, setting) in [
            ("BATCHSIZE", "BATCH_SIZE"),
            ("batch_size", "BATCH_SIZE"),
            ("SLUICE_BATCH_SIZE", "BATCH_SIZE"),
            ("BATCH_SIZES", "BATCH_SIZE"),
            ("BACTH_SIZE", "BATCH_SIZE"),
            ("KAFKA_BROKER", "KAFKA_BROKERS"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("DATABASEURL_FILE", "DATABASE_URL_FILE"),
            ("DB_USER", "DB_USERNAME"),
        ] {
            assert_eq!(meant(name).as_deref(), Some(setting), "{name}");
        }
        for name in [
            "BATCH_SIZE",
            "PATH",
            "SORT",
            "PORTS",
            "DATABASE_URL_2",
            "KAFKA_BROKER_ID",
            "SLUICE_SERVICE_HOST",
        ] {
            assert_eq!(meant(name), None, "{name}");
        }
    }
}
