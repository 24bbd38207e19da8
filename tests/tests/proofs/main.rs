//! All scenarios in one program, so that there is one to link; each module is a kind of trouble.
//! Needs the services that `scripts/with-stack.sh` starts: run `make test`.

mod answers;
mod bank;
mod browser;
mod conformance;
mod crashes;
mod disasters;
mod docs;
mod domain;
mod errors;
mod families;
mod fault_points;
mod faults;
mod fence;
mod harness;
mod health;
mod kafka_faults;
mod leases;
mod letters;
mod limits;
mod metrics;
mod mixed;
mod nemesis;
mod operate;
mod outages;
mod page;
mod restore;
mod retention;
mod secrets;
mod service;
mod sharing;
mod tls;
mod together;
mod topics;
mod upgrade;
mod zombies;
