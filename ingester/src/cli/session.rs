//! A command waits for PostgreSQL for as long as PostgreSQL works on it, and no longer: looked at from a
//! second connection, which a command of a few seconds never opens.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};
use tokio_util::task::AbortOnDropHandle;

use crate::postgres::database::Database;
use crate::postgres::life::Backend;

/// How long a command may take before anybody looks.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(2);
/// How long a look may take, connecting included.
const ANSWER: Duration = Duration::from_secs(5);
/// How long its backend may idle: no command rests for so long between two questions.
const IDLE_S: f64 = 10.0;
/// How long PostgreSQL may not answer the look either.
const UNSEEN: Duration = Duration::from_secs(30);

const IDLE_FOR: &str = "
    SELECT extract(epoch FROM clock_timestamp() - a.state_change)::float8, a.state LIKE 'idle%'
    FROM pg_stat_get_activity($1) a WHERE (extract(epoch FROM a.backend_start) * 1000000)::bigint = $2";

/// A session for a command. As long as it is held this process ends, with a line that says why, when the
/// session will not answer.
pub struct Asking {
    client: Client,
    _limit: AbortOnDropHandle<()>,
}

impl Deref for Asking {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Asking {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Asking {
    pub async fn open(database: &Database) -> Result<Self, Error> {
        let client = database.connect(|_| ()).await?;
        let backend = Backend::of(&client).await?;
        let limit = tokio::spawn(limit(database.clone(), backend));
        Ok(Self {
            client,
            _limit: AbortOnDropHandle::new(limit),
        })
    }
}

async fn limit(database: Database, backend: Backend) {
    tokio::time::sleep(FIRST_LOOK).await;
    let why = until_silent(&database, backend).await;
    eprintln!(
        "sluice: no answer from PostgreSQL: {why}; the last statement may have been carried out or not: look before you repeat it"
    );
    std::process::exit(1);
}

/// Completes once no answer will come.
async fn until_silent(database: &Database, backend: Backend) -> &'static str {
    let (mut eye, mut seen) = (None, Instant::now());
    loop {
        match tokio::time::timeout(ANSWER, look(database, &mut eye, backend)).await {
            Ok(Ok(None)) => return "its session is gone",
            Ok(Ok(Some(idle_s))) if idle_s > IDLE_S => return "its session waits for this command",
            Ok(Ok(Some(_))) => seen = Instant::now(),
            _ if seen.elapsed() > UNSEEN => return "another connection gets no answer either",
            _ => eye = None,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many seconds the backend idles, if it is there.
async fn look(
    database: &Database,
    eye: &mut Option<Client>,
    backend: Backend,
) -> Result<Option<f64>, Error> {
    let open = match eye.take() {
        Some(open) => open,
        None => database.connect(|_| ()).await?,
    };
    let which: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&backend.pid, Type::INT4), (&backend.began_us, Type::INT8)];
    let row = open.query_typed_opt(IDLE_FOR, &which).await?;
    *eye = Some(open);
    Ok(row.map(|row| match row.get::<_, Option<bool>>(1) {
        Some(true) => row.get(0),
        _ => 0.0,
    }))
}
