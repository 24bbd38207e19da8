//! A proxy in front of PostgreSQL that understands message frames, to cut or hold a connection
//! at an exact point of the write protocol.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where a connection can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The first staged rows have been forwarded, the COPY is open.
    InCopy,
    /// The apply has been answered, and the COMMIT has not reached the server.
    BeforeCommit,
}

/// What is lost of a connection that stays open, and whose peer acknowledges everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// What the server sends from now on.
    Answers,
    /// That, and what the client sends, the statement that is waited for included.
    Everything,
}

#[derive(Default)]
struct Plan {
    /// The next connections that run a statement with this text in it lose this.
    losing: Vec<(String, Lost)>,
    losses: u32,
    /// How many of the next COMMITs of a batch are forwarded and their answers withheld for ever.
    cut_commit_answers: u32,
    cuts: u32,
    hold: Option<(Point, watch::Sender<Stage>)>,
    commits: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Armed,
    Held,
    Released,
}

pub struct Proxy {
    pub port: u16,
    plan: Arc<Mutex<Plan>>,
    /// False while no byte passes in either direction, on any connection.
    open: watch::Sender<bool>,
    /// Counts how often all connections were cut.
    cut: watch::Sender<u64>,
    /// How long each message takes.
    delay_ms: Arc<AtomicU64>,
    /// Where new connections go.
    server: Arc<AtomicU16>,
    listener: JoinHandle<()>,
}

/// A connection that is, or will be, held.
pub struct Hold(watch::Sender<Stage>);

impl Hold {
    pub async fn reached(&self) {
        let mut stage = self.0.subscribe();
        let held = stage.wait_for(|stage| *stage == Stage::Held);
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(60), held).await;
        assert!(
            in_time.is_ok(),
            "waited a minute in vain for a connection to hold"
        );
    }

    pub fn release(&self) {
        self.0.send_replace(Stage::Released);
    }
}

impl Proxy {
    pub async fn start(postgres_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (open, opened) = watch::channel(true);
        let (cut, cuts) = watch::channel(0);
        let delay_ms = Arc::new(AtomicU64::new(0));
        let server = Arc::new(AtomicU16::new(postgres_port));
        let leads_to = server.clone();
        let way = Way {
            plan: plan.clone(),
            open: opened,
            delay_ms: delay_ms.clone(),
        };
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (served, mut cuts) = (
                    serve(client, leads_to.load(Ordering::Relaxed), way.clone()),
                    cuts.clone(),
                );
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = served => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            plan,
            open,
            cut,
            delay_ms,
            server,
            listener,
        }
    }

    /// From now on the way leads to another server; connections to the former one end.
    pub fn lead_to(&self, postgres_port: u16) {
        self.server.store(postgres_port, Ordering::Relaxed);
        self.cut_all();
    }

    /// Closes every connection that there is now.
    pub fn cut_all(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// From now on each message takes so long, in either direction.
    pub fn delay(&self, delay_ms: u64) {
        self.delay_ms.store(delay_ms, Ordering::Relaxed);
    }

    /// From now on no byte passes, and no connection ends: a network that swallows everything.
    pub fn swallow(&self) {
        self.open.send_replace(false);
    }

    /// What was on its way arrives now.
    pub fn pass_on(&self) {
        self.open.send_replace(true);
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().expect("no one panics with it")
    }

    /// The next `count` batches are committed, and the one who committed them never hears of it.
    pub fn cut_commit_answers(&self, count: u32) {
        self.plan().cut_commit_answers = count;
    }

    /// How many answers have been cut so far.
    pub fn cuts(&self) -> u32 {
        self.plan().cuts
    }

    /// Batches committed through this proxy and answered.
    pub fn commits(&self) -> u64 {
        self.plan().commits
    }

    /// The next connection that runs a statement with `text` in it loses its answers, or everything, for good:
    /// no byte of it passes any more, and neither side hears that it ended.
    pub fn lose(&self, text: &str, lost: Lost) {
        self.plan().losing.push((text.to_owned(), lost));
    }

    /// How many connections have lost something so far.
    pub fn losses(&self) -> u32 {
        self.plan().losses
    }

    /// The next connection that comes to `point` goes no further until it is released.
    pub fn hold_at(&self, point: Point) -> Hold {
        let (sender, _) = watch::channel(Stage::Armed);
        self.plan().hold = Some((point, sender.clone()));
        Hold(sender)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What both directions of one connection know of each other.
#[derive(Default)]
struct Connection {
    /// Rows were staged in the present transaction.
    staged: bool,
    lost: Option<Lost>,
}

/// What happens to messages on their way.
#[derive(Clone)]
struct Way {
    plan: Arc<Mutex<Plan>>,
    open: watch::Receiver<bool>,
    delay_ms: Arc<AtomicU64>,
}

impl Way {
    async fn passes(&mut self) {
        let delay_ms = self.delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let _ = self.open.wait_for(|open| *open).await;
    }
}

async fn serve(client: TcpStream, postgres_port: u16, way: Way) {
    let server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], postgres_port))).await;
    let Ok(server) = server else { return };
    // Small messages wait for nobody, or the proxy itself would be the slow part.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let connection = Arc::new(Mutex::new(Connection::default()));
    let forward = Forward {
        from: from_client,
        to: to_server,
        way: way.clone(),
        connection: connection.clone(),
    };
    let backward = Backward {
        from: from_server,
        to: to_client,
        way,
        connection,
    };
    // When one direction ends the other is dropped with it, and both sockets are closed.
    tokio::select! {
        () = forward.run() => {}
        () = backward.run() => {}
    }
}

/// Reads until one whole message is there. The first message of a session has no type byte.
async fn fill_message(
    from: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
    typed: bool,
) -> Option<usize> {
    let header = if typed { 5 } else { 4 };
    loop {
        if buffer.len() >= header {
            let length = (&buffer[header - 4..]).get_u32() as usize + header - 4;
            if buffer.len() >= length {
                return Some(length);
            }
        }
        if from.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

struct Forward {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    way: Way,
    connection: Arc<Mutex<Connection>>,
}

impl Forward {
    async fn run(mut self) {
        let mut buffer = BytesMut::new();
        let mut commits = CommitSpotter::default();
        // Requests for encryption come first and are answered by one byte; the start-up message follows, untyped too.
        let mut typed = false;
        while let Some(length) = fill_message(&mut self.from, &mut buffer, typed).await {
            let message = buffer.split_to(length);
            self.way.passes().await;
            if !typed {
                let code = (&message[4..8]).get_u32();
                typed = code >> 16 == 3;
                if self.to.write_all(&message).await.is_err() {
                    return;
                }
                continue;
            }
            let is_commit = commits.is_commit(&message);
            if self.loses(commits.running(&message)) == Some(Lost::Everything) {
                continue;
            }
            if is_commit
                && self
                    .connection
                    .lock()
                    .expect("no one panics with it")
                    .staged
            {
                self.hold(Point::BeforeCommit).await;
            }
            if self.to.write_all(&message).await.is_err() {
                return;
            }
            if message[0] == b'd' {
                self.connection
                    .lock()
                    .expect("no one panics with it")
                    .staged = true;
                self.hold(Point::InCopy).await;
            }
        }
    }

    /// What this connection has lost, now that it is about to run `statement`.
    fn loses(&self, statement: &[u8]) -> Option<Lost> {
        let mut connection = self.connection.lock().expect("no one panics with it");
        if connection.lost.is_none() && !statement.is_empty() {
            let mut plan = self.way.plan.lock().expect("no one panics with it");
            let runs = |(text, _): &(String, Lost)| {
                let text = text.as_bytes();
                statement.windows(text.len()).any(|part| part == text)
            };
            if let Some(at) = plan.losing.iter().position(runs) {
                connection.lost = Some(plan.losing.remove(at).1);
                plan.losses += 1;
            }
        }
        connection.lost
    }

    async fn hold(&self, here: Point) {
        let sender = {
            let mut plan = self.way.plan.lock().expect("no one panics with it");
            match plan.hold.take() {
                Some((point, sender)) if point == here => sender,
                other => {
                    plan.hold = other;
                    return;
                }
            }
        };
        sender.send_replace(Stage::Held);
        let _ = sender
            .subscribe()
            .wait_for(|stage| *stage == Stage::Released)
            .await;
    }
}

/// Recognizes a COMMIT and other statements, sent as a simple query or through the extended protocol.
#[derive(Default)]
struct CommitSpotter {
    statements: HashMap<Vec<u8>, Vec<u8>>,
    bound: bool,
}

impl CommitSpotter {
    fn is_commit(&mut self, message: &[u8]) -> bool {
        let body = &message[5..];
        let (first, rest) = split_string(body);
        match message[0] {
            b'Q' => is_commit(first),
            b'P' => {
                let text = split_string(rest).0.to_vec();
                self.statements.insert(first.to_vec(), text);
                false
            }
            b'B' => {
                let text = self.statements.get(split_string(rest).0);
                self.bound = text.is_some_and(|text| is_commit(text));
                false
            }
            b'E' => self.bound,
            _ => false,
        }
    }

    /// The statement that this message is about to run, if any.
    fn running<'m>(&'m self, message: &'m [u8]) -> &'m [u8] {
        let (first, rest) = split_string(&message[5..]);
        match message[0] {
            b'Q' => first,
            b'B' => self
                .statements
                .get(split_string(rest).0)
                .map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }
}

fn is_commit(query: &[u8]) -> bool {
    query
        .trim_ascii()
        .to_ascii_uppercase()
        .starts_with(b"COMMIT")
}

/// Up to the next zero byte, and what follows it.
fn split_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

struct Backward {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    way: Way,
    connection: Arc<Mutex<Connection>>,
}

impl Backward {
    async fn run(mut self) {
        let mut buffer = BytesMut::new();
        // The answer to a request for encryption is the one byte N: our server has no TLS. No message begins with it
        // before the session stands, for notices of that kind follow the authentication.
        let mut begun = false;
        loop {
            if !begun {
                if buffer.is_empty() && self.from.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
                begun = buffer[0] != b'N';
                if !begun {
                    let answer = buffer.split_to(1);
                    if self.to.write_all(&answer).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            let Some(length) = fill_message(&mut self.from, &mut buffer, true).await else {
                return;
            };
            let message = buffer.split_to(length);
            self.way.passes().await;
            let lost = self.connection.lock().expect("no one panics with it").lost;
            if lost.is_some() {
                continue;
            }
            if self.is_commit_answer(&message) && self.cuts() {
                return;
            }
            if self.to.write_all(&message).await.is_err() {
                return;
            }
        }
    }

    /// CommandComplete of the COMMIT that ends a batch.
    fn is_commit_answer(&self, message: &[u8]) -> bool {
        let ends = message[0] == b'C'
            && (message[5..].starts_with(b"COMMIT") || message[5..].starts_with(b"ROLLBACK"));
        let mut connection = self.connection.lock().expect("no one panics with it");
        let staged = connection.staged;
        connection.staged &= !ends;
        ends && staged && message[5..].starts_with(b"COMMIT")
    }

    fn cuts(&self) -> bool {
        let mut plan = self.way.plan.lock().expect("no one panics with it");
        if plan.cut_commit_answers == 0 {
            plan.commits += 1;
            return false;
        }
        plan.cut_commit_answers -= 1;
        plan.cuts += 1;
        true
    }
}
