//! What became of every record, compared with what the topics and the operators' deeds say.

pub mod compare;
pub mod dead_letters;
pub mod deeds;
pub mod replay;
pub mod watch;
