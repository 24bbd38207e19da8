//! What the fence compares, as separate types: they cannot be mixed up with each other, nor with an offset.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;

/// A value that comes from the database and is sent back to it: the ingester creates and computes none.
macro_rules! of_database {
    ($(#[$doc:meta])* $name:ident($inner:ty), $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name($inner);

        impl<'r> FromSql<'r> for $name {
            fn from_sql(of: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
                <$inner>::from_sql(of, raw).map(Self)
            }

            accepts!($type);
        }

        impl ToSql for $name {
            fn to_sql(
                &self,
                of: &Type,
                out: &mut BytesMut,
            ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
                self.0.to_sql(of, out)
            }

            accepts!($type);
            to_sql_checked!();
        }
    };
}

of_database! {
    /// Grows with each acquisition of a partition: a batch with an older token is refused.
    FencingToken(i64), INT8
}

of_database! {
    /// Identifies one acquisition, with all its renewals.
    LeaseId(Uuid), UUID
}

impl FencingToken {
    /// For log lines.
    pub fn shown(self) -> i64 {
        self.0
    }
}
