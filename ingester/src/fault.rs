//! Named fault points of test builds. Elsewhere the macros below leave nothing behind.

/// A point that may crash, freeze, delay, or fail the function that it stands in.
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::fault::point($name).await?;
    };
}

/// The same between the moment where a statement is sent and the one where its answer is looked at.
macro_rules! fault_sent {
    ($name:literal, $statement:expr) => {{
        #[cfg(not(feature = "fault-points"))]
        let sent = $statement;
        #[cfg(feature = "fault-points")]
        let sent = $crate::fault::sent($name, $statement);
        sent
    }};
}

#[cfg(feature = "fault-points")]
pub use points::{Raised, point, sent};

#[cfg(feature = "fault-points")]
mod points {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::time::Duration;

    use faults::Action;

    /// The folder where points are armed.
    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("SLUICE_FAULT_POINTS").map(PathBuf::from));

    /// How long what was sent gets to leave this process.
    const LEAVE: Duration = Duration::from_millis(20);

    /// A point that was told to fail.
    pub struct Raised;

    impl From<Raised> for tokio_postgres::Error {
        fn from(Raised: Raised) -> Self {
            // No error of the server: as if the connection had failed.
            Self::__private_api_timeout()
        }
    }

    impl From<Raised> for String {
        fn from(Raised: Raised) -> Self {
            faults::RAISED.to_owned()
        }
    }

    fn taken(name: &str) -> Option<Action> {
        faults::take(FOLDER.as_deref()?, name)
    }

    async fn act(name: &str, action: Action) -> Result<(), Raised> {
        tracing::warn!("fault point {name}: {action:?}");
        match action {
            Action::Crash => faults::crash(),
            Action::Freeze => faults::freeze(),
            Action::Raise => return Err(Raised),
            Action::Delay(time) => tokio::time::sleep(time).await,
        }
        Ok(())
    }

    pub async fn point(name: &str) -> Result<(), Raised> {
        match taken(name) {
            Some(action) => act(name, action).await,
            None => Ok(()),
        }
    }

    pub async fn sent<T, E: From<Raised>>(
        name: &str,
        statement: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let act = async {
            let Some(action) = taken(name) else {
                return Ok(());
            };
            tokio::time::sleep(LEAVE).await;
            act(name, action).await.map_err(E::from)
        };
        // The first poll sends the statement.
        let (answer, acted) = tokio::join!(statement, act);
        acted.and(answer)
    }
}
