//! What `sluice check` sees around the database: room for connections, memory, replication, clocks, and other databases of the
//! same server.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::{Client, Error};

use super::findings::Findings;
use crate::postgres::database::Database;

/// Shared memory from which on huge pages are worth the trouble.
const LARGE_BYTES: i64 = 1 << 30;
/// Clocks may differ by so much: ages and delays in the metrics are off by it.
const CLOCKS_S: f64 = 1.0;

const CONNECTIONS: &str = "
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true), '0')::int,
        (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'),
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
        (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
        (SELECT count(DISTINCT application_name)::int FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'sluice/%')";
// The status is known from PostgreSQL 17 on; before, what was wanted.
const HUGE_PAGES: &str = "
    SELECT coalesce(current_setting('huge_pages_status', true), current_setting('huge_pages')),
        pg_size_bytes(current_setting('shared_buffers'))";
const PUBLICATIONS: &str = "
    SELECT pubname::text FROM pg_publication_tables
    WHERE schemaname = 'ledger' AND tablename = 'event_identities' ORDER BY 1";
// A database where the role that owns Sluice's tables owns something has a Sluice of its own.
const OTHER_DATABASES: &str = "
    SELECT DISTINCT d.datname::text FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = to_regrole('sluice_owner') AND s.deptype = 'o'
        AND d.datname <> current_database() AND d.datallowconn AND has_database_privilege(d.oid, 'CONNECT')
        AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) ORDER BY 1";
const WORKS_ELSEWHERE: &str = "
    SELECT DISTINCT datname::text FROM pg_stat_activity
    WHERE usename = current_user AND datname <> current_database() AND application_name LIKE 'sluice/%' ORDER BY 1";

pub(super) async fn look(
    client: &Client,
    pool_size: u16,
    findings: &mut Findings,
) -> Result<(), Error> {
    connections(client, pool_size, findings).await?;
    huge_pages(client, findings).await?;
    publications(client, findings).await?;
    clocks(client, findings).await?;
    other_databases(client, findings).await
}

async fn connections(
    client: &Client,
    pool_size: u16,
    findings: &mut Findings,
) -> Result<(), Error> {
    let row = client.query_typed_one(CONNECTIONS, &[]).await?;
    let [most, taken, of_login, of_database, instances]: [i32; 5] =
        [0_usize, 1, 2, 3, 4].map(|column| row.get(column));
    let wanted = i32::from(pool_size);
    let limit = |limit: i32| if limit < 0 { i32::MAX } else { limit };
    let allowed = most.min(limit(of_login)).min(limit(of_database));
    let found = format!("{taken} of {most} taken, {instances} instances of Sluice here");
    let advice = format!(
        "an instance opens up to {wanted} (DB_POOL_SIZE): raise max_connections, or the CONNECTION LIMIT of the login or the \
         database, or lower DB_POOL_SIZE"
    );
    if allowed < wanted {
        findings.fails(
            "connections",
            format!("at most {allowed} for this login"),
            &advice,
        );
    } else if instances == 0 && most - taken < wanted {
        findings.warns("connections", found, &advice);
    } else {
        findings.fits("connections", found);
    }
    Ok(())
}

async fn huge_pages(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let row = client.query_typed_one(HUGE_PAGES, &[]).await?;
    let (pages, bytes): (&str, i64) = (row.get(0), row.get(1));
    let found = format!("{pages}, shared_buffers {} MB", bytes >> 20);
    if pages == "off" && bytes >= LARGE_BYTES {
        let advice = "each session maps shared memory by pages of 4 kB: set vm.nr_hugepages of the machine and huge_pages = try";
        findings.note("huge pages", found, advice);
    } else {
        findings.fits("huge pages", found);
    }
    Ok(())
}

/// Identities are written once for each event and read by nobody but Sluice.
async fn publications(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let rows = client.query_typed(PUBLICATIONS, &[]).await?;
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    if names.is_empty() {
        findings.fits("publications", "none sends identities");
    } else {
        findings.note(
            "publications",
            format!("{} sends ledger.event_identities", names.join(", ")),
            "a subscriber needs identities only to take over from this database; for any other, publish tables by name without \
             event_identities",
        );
    }
    Ok(())
}

async fn clocks(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let asked = Instant::now();
    let now = "SELECT extract(epoch FROM clock_timestamp())::float8";
    let there: f64 = client.query_typed_one(now, &[]).await?.get(0);
    let half_way = asked.elapsed().as_secs_f64() / 2.0;
    let here = SystemTime::now().duration_since(UNIX_EPOCH);
    let here = here.map_or(0.0, |since| since.as_secs_f64()) - half_way;
    let ahead = there - here;
    let found = format!("PostgreSQL's is {ahead:+.1} s from this machine's");
    if ahead.abs() > CLOCKS_S {
        let advice =
            "set both by NTP; leases are safe, ages and delays in the metrics are off by as much";
        findings.warns("clocks", found, advice);
    } else {
        findings.fits("clocks", found);
    }
    Ok(())
}

/// Roles are the server's: a login for this database can be used for every other one that lets it in.
async fn other_databases(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let names = async |statement: &str| -> Result<Vec<String>, Error> {
        let rows = client.query_typed(statement, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let (works, may) = (names(WORKS_ELSEWHERE).await?, names(OTHER_DATABASES).await?);
    let shown = |names: &[String]| match names {
        [first, second, third, _, ..] => format!("{first}, {second}, {third}, …"),
        few => few.join(", "),
    };
    if !works.is_empty() {
        let advice = "it belongs to the Sluice of another database: give the ingesters of this one a login of their own";
        findings.warns(
            "login",
            format!("works for Sluice in {}, too", shown(&works)),
            advice,
        );
    } else if !may.is_empty() {
        findings.note(
            "login",
            format!("may connect to {}, which has a Sluice of its own", shown(&may)),
            "REVOKE CONNECT ON DATABASE … FROM PUBLIC there, and GRANT it to the logins of that database",
        );
    } else {
        findings.fits("login", "of this database's Sluice alone");
    }
    Ok(())
}

/// Whether the page can show and do what it offers.
pub(super) async fn of_operator(
    client: &Client,
    ingester: &Database,
    findings: &mut Findings,
) -> Result<(), Error> {
    let row = client
        .query_typed_one(
            "SELECT current_database()::text, current_user::text,
                coalesce(pg_has_role(to_regrole('sluice_admin'), 'USAGE'), false),
                (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
            &[],
        )
        .await?;
    let (database, user): (&str, &str) = (row.get(0), row.get(1));
    findings.test(
        "role sluice_admin",
        user,
        row.get(2),
        &format!("GRANT sluice_admin TO {user}"),
    );
    findings.test(
        "operator's database",
        database,
        ingester.name().is_none_or(|name| name == database),
        "DATABASE_URL and OPERATOR_DATABASE_URL must name one database",
    );
    if row.get(3) {
        let advice = "give the page a plain member of sluice_admin: OPERATOR_DATABASE_URL";
        findings.warns("operator's rights", "superuser", advice);
    }
    Ok(())
}
