//! Connections over loopback: who gets in, who does not, and what each end is told.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::security::{Credentials, RunCredentials};
use crate::wire::frame::{self, FrameError, FrameLimit};
use crate::wire::handshake::HandshakeError;

/// Generous: reaching it means something hangs.
const HANG: Duration = Duration::from_secs(60);

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Waits for a line that names `peer` and says `what`.
    async fn wait_for(&self, peer: &str, what: &str) {
        let found = async {
            while !self.text().lines().any(|line| line.contains(peer) && line.contains(what)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            timeout(HANG, found).await.is_ok(),
            "no line names {peer} and says `{what}`: {}",
            self.text()
        );
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

const BUILD: Option<BuildHash> = Some(BuildHash(7));

fn run() -> RunCredentials {
    Credentials::generate().unwrap()
}

async fn scheduler(run: &RunCredentials) -> Listener {
    Listener::bind(&Reach::Machine, 0, &run.scheduler, hello(Role::Scheduler, BUILD)).await.unwrap()
}

fn connector(run: &RunCredentials, role: Role) -> Connector {
    Connector::new(&run.member, hello(role, BUILD)).unwrap()
}

async fn pair(run: &RunCredentials) -> (Connection, Connection) {
    let mut listener = scheduler(run).await;
    let client = connector(run, Role::Client);
    let address = listener.address().to_owned();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(&address, HANG));
    (accepted, connected.unwrap())
}

/// Connects while the listener serves; the listener must not let it in.
async fn rejected(listener: &mut Listener, client: &Connector) -> Failure {
    let address = listener.address().to_owned();
    tokio::select! {
        admitted = listener.accept() => panic!("{} was let in", admitted.remote()),
        refused = client.connect(&address, HANG) => match refused {
            Err(ConnectError::Peer { source, .. }) => source,
            other => panic!("expected a rejection, got {other:?}"),
        },
    }
}

fn outbox(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (opcode, body) in frames {
        frame::append(&mut out, *opcode, |out| out.extend_from_slice(body));
    }
    out
}

#[tokio::test]
async fn members_of_one_run_exchange_frames_both_ways() {
    let (mut accepted, mut connected) = pair(&run()).await;
    assert_eq!(accepted.remote().hello.role, Role::Client);
    assert_eq!(connected.remote().hello.role, Role::Scheduler);
    assert_eq!(accepted.protocol(), 2);

    let mut frames = outbox(&[(1, b"one"), (2, b"")]);
    connected.halves().1.write_all(&mut frames).await.unwrap();
    assert!(frames.is_empty());
    let first = accepted.halves().0.frame().await.unwrap().unwrap();
    let second = accepted.halves().0.frame().await.unwrap().unwrap();
    assert_eq!((first.opcode, &first.body[..]), (1, &b"one"[..]));
    assert_eq!((second.opcode, second.body.len()), (2, 0));

    accepted.halves().1.write_all(&mut outbox(&[(3, b"back")])).await.unwrap();
    let answer = connected.halves().0.frame().await.unwrap().unwrap();
    assert_eq!((answer.opcode, &answer.body[..]), (3, &b"back"[..]));
}

#[tokio::test]
async fn frames_sent_right_after_the_handshake_are_not_lost() {
    let run = run();
    let mut listener = scheduler(&run).await;
    let client = connector(&run, Role::Worker);
    let address = listener.address().to_owned();
    let server = async {
        let (_, mut writer) = listener.accept().await.split();
        writer.write_all(&mut outbox(&[(9, b"welcome")])).await.unwrap();
        writer
    };
    let (_writer, connected) = tokio::join!(server, client.connect(&address, HANG));
    let (mut reader, _) = connected.unwrap().split();
    assert_eq!(&reader.frame().await.unwrap().unwrap().body[..], b"welcome");
}

#[tokio::test]
async fn a_frame_that_came_with_the_handshake_is_the_first_that_arrives() {
    let run = run();
    for _ in 0..50 {
        let mut listener = scheduler(&run).await;
        let client = connector(&run, Role::Worker);
        let address = listener.address().to_owned();
        let server = async {
            let (_, mut writer) = listener.accept().await.split();
            writer.write_all(&mut outbox(&[(9, b"farewell")])).await.unwrap();
            writer.close().await.unwrap();
        };
        let ((), connected) = tokio::join!(server, client.connect(&address, HANG));
        let (mut reader, _) = connected.unwrap().split();
        let frame = loop {
            assert!(reader.fill().await.unwrap(), "the peer closed, and its frame was not seen");
            if let Some(frame) = reader.next_frame().unwrap() {
                break frame;
            }
        };
        assert_eq!(&frame.body[..], b"farewell");
    }
}

#[tokio::test]
async fn large_bodies_cross_in_both_directions_at_once() {
    let (accepted, connected) = pair(&run()).await;
    let body: Vec<u8> = (0..8_000_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let exchange = |connection: Connection| {
        let body = &body;
        async move {
            let (mut reader, mut writer) = connection.split();
            let send = async {
                writer.write_all(&mut frame::header(5, 8_000_000).to_vec()).await.unwrap();
                writer.write_body(body).await.unwrap();
            };
            let (received, ()) = tokio::join!(reader.frame(), send);
            assert!(received.unwrap().unwrap().body == body[..]);
        }
    };
    tokio::join!(exchange(accepted), exchange(connected));
}

#[tokio::test]
async fn a_dropped_write_is_finished_by_the_next_one() {
    let (mut accepted, mut connected) = pair(&run()).await;
    let mut large = outbox(&[(1, &vec![7; 20_000_000])]);
    let abandoned = timeout(Duration::from_millis(50), connected.halves().1.write_all(&mut large)).await;
    assert!(abandoned.is_err(), "nobody reads, so this cannot end");
    let mut small = outbox(&[(2, b"after")]);
    let (written, first) = tokio::join!(connected.halves().1.write_all(&mut small), async {
        let first = accepted.halves().0.frame().await.unwrap().unwrap();
        (first, accepted.halves().0.frame().await.unwrap().unwrap())
    });
    written.unwrap();
    assert_eq!((first.0.opcode, first.0.body.len()), (1, 20_000_000));
    assert_eq!((first.1.opcode, &first.1.body[..]), (2, &b"after"[..]));
}

#[tokio::test]
async fn a_closed_connection_ends_and_a_dropped_one_is_lost() {
    let (mut accepted, mut connected) = pair(&run()).await;
    connected.halves().1.write_all(&mut outbox(&[(1, b"last")])).await.unwrap();
    connected.halves().1.close().await.unwrap();
    assert!(accepted.halves().0.frame().await.unwrap().is_some());
    assert!(accepted.halves().0.frame().await.unwrap().is_none());

    let (mut accepted, connected) = pair(&run()).await;
    drop(connected);
    let error = accepted.halves().0.frame().await.unwrap_err();
    assert!(matches!(&error, ReadError::Lost { .. }), "{error:?}");
    assert!(error.to_string().contains("the connection to client on "), "{error}");
}

#[tokio::test]
async fn a_connection_closed_inside_a_frame_is_an_error() {
    let (mut accepted, mut connected) = pair(&run()).await;
    connected.halves().1.write_all(&mut vec![100, 0, 0, 0, 1, 0, 0, 0, 42]).await.unwrap();
    connected.halves().1.close().await.unwrap();
    let error = accepted.halves().0.frame().await.unwrap_err();
    assert!(matches!(error, ReadError::Truncated { bytes: 9, .. }), "{error:?}");
}

#[tokio::test]
async fn an_oversize_frame_is_refused_before_it_is_read() {
    let run = run();
    let mut listener = scheduler(&run).await.with_limit(FrameLimit { body_bytes_max: 100 });
    let client = connector(&run, Role::Client);
    let address = listener.address().to_owned();
    let (accepted, connected) = tokio::join!(listener.accept(), client.connect(&address, HANG));
    let (mut accepted, mut connected) = (accepted, connected.unwrap());
    connected.halves().1.write_all(&mut frame::header(1, 101).to_vec()).await.unwrap();
    let error = accepted.halves().0.frame().await.unwrap_err();
    let ReadError::Frame { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source, FrameError::TooLong { opcode: 1, body_bytes: 101, body_bytes_max: 100 });
}

#[tokio::test]
async fn credentials_of_another_run_are_rejected_and_both_ends_say_so() {
    let (log, _guard) = Log::capture();
    let mut listener = scheduler(&run()).await;
    let failure = rejected(&mut listener, &connector(&run(), Role::Client)).await;
    assert!(matches!(failure, Failure::ForeignCertificate), "{failure:?}");
    assert_eq!(failure.to_string(), "its certificate belongs to another run, or is forged");
    tokio::select! {
        _ = listener.accept() => unreachable!("nobody else connects"),
        () = log.wait_for("127.0.0.1:", "it rejected our certificate") => {}
    }
}

#[tokio::test]
async fn a_client_whose_own_certificate_is_foreign_is_told() {
    let (log, _guard) = Log::capture();
    let (ours, theirs) = (run(), run());
    let mut listener = scheduler(&ours).await;
    // It trusts the right authority, but shows a certificate of another one.
    let mixed = ours.member.with_leaf_of(&theirs.member);
    let client = Connector::new(&mixed, hello(Role::Client, BUILD)).unwrap();
    let failure = rejected(&mut listener, &client).await;
    assert!(matches!(failure, Failure::RejectedCertificate), "{failure:?}");
    log.wait_for("127.0.0.1:", "its certificate belongs to another run").await;
}

#[tokio::test]
async fn a_client_that_reaches_a_workers_data_port_is_told_to_check_the_address() {
    let run = run();
    let mut data_port =
        Listener::bind(&Reach::Machine, 0, &run.member, hello(Role::Peer, BUILD)).await.unwrap();
    let failure = rejected(&mut data_port, &connector(&run, Role::Client)).await;
    assert!(matches!(failure, Failure::WrongHolder), "{failure:?}");
}

#[tokio::test]
async fn another_build_is_refused_and_both_ends_say_so() {
    let (log, _guard) = Log::capture();
    let run = run();
    let mut listener = scheduler(&run).await;
    let other = Connector::new(&run.member, hello(Role::Worker, Some(BuildHash(8)))).unwrap();
    let failure = rejected(&mut listener, &other).await;
    let Failure::Refused { reason } = failure else { panic!("{failure:?}") };
    assert!(reason.starts_with("the programs differ: tasks 0000000000000008"), "{reason}");
    log.wait_for("127.0.0.1:", "the programs differ").await;
}

#[tokio::test]
async fn a_program_without_tasks_is_let_in_whatever_the_build() {
    let run = run();
    let mut listener = scheduler(&run).await;
    let observer = Connector::new(&run.member, hello(Role::Client, None)).unwrap();
    let address = listener.address().to_owned();
    let (accepted, connected) = tokio::join!(listener.accept(), observer.connect(&address, HANG));
    assert_eq!(accepted.remote().hello.build, None);
    assert_eq!(connected.unwrap().remote().hello.build, BUILD);
}

#[tokio::test]
async fn a_peer_that_connects_in_the_wrong_role_is_refused() {
    let run = run();
    let mut listener = scheduler(&run).await;
    let client = Connector::new(&run.member, hello(Role::Scheduler, BUILD)).unwrap();
    let failure = rejected(&mut listener, &client.expecting_scheduler()).await;
    let Failure::Refused { reason } = failure else { panic!("{failure:?}") };
    assert_eq!(reason, HandshakeError::Role { theirs: Role::Scheduler, ours: Role::Scheduler }.to_string());
}

#[tokio::test]
async fn plain_text_and_garbage_are_dropped_named_and_harm_nobody() {
    let (log, _guard) = Log::capture();
    let run = run();
    let mut listener = scheduler(&run).await;
    let address = listener.address().to_owned();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xFF; 3000], &[22, 9, 9, 255, 255, 1, 2]] {
        let mut stranger = TcpStream::connect(&address).await.unwrap();
        let named = stranger.local_addr().unwrap().to_string();
        stranger.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::select! {
            _ = listener.accept() => panic!("a stranger was let in"),
            ended = timeout(HANG, stranger.read_to_end(&mut answer)) => { let _ = ended.unwrap(); }
        }
        log.wait_for(&named, "plain text or garbage").await;
    }
    let client = connector(&run, Role::Client);
    let (_, connected) = tokio::join!(listener.accept(), client.connect(&address, HANG));
    connected.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_dcluster_is_named_as_such() {
    let ssh = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ssh.local_addr().unwrap().to_string();
    let client = connector(&run(), Role::Client);
    let serve = async {
        let (mut stream, _) = ssh.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        stream
    };
    let (_stream, refused) = tokio::join!(serve, client.connect(&address, HANG));
    assert!(matches!(refused, Err(ConnectError::Peer { source: Failure::NotTls, .. })), "{refused:?}");
}

#[tokio::test]
async fn silent_peers_do_not_hold_up_others() {
    let run = run();
    let mut listener = scheduler(&run).await;
    let address = listener.address().to_owned();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let client = connector(&run, Role::Client);
    let (_, connected) = tokio::join!(listener.accept(), client.connect(&address, HANG));
    connected.unwrap();
}

#[tokio::test]
async fn more_silent_peers_than_may_be_half_open_give_way() {
    let run = run();
    let mut listener = scheduler(&run).await;
    let address = listener.address().to_owned();
    let crowd = async {
        let mut silent = Vec::new();
        for _ in 0..140 {
            silent.push(TcpStream::connect(&address).await.unwrap());
        }
        silent
    };
    let _silent = tokio::select! {
        _ = listener.accept() => panic!("a silent peer was let in"),
        silent = crowd => silent,
    };
    let client = connector(&run, Role::Client);
    let (_, connected) = tokio::join!(listener.accept(), client.connect(&address, HANG));
    connected.unwrap();
}

#[tokio::test]
async fn a_silent_peer_is_dropped_and_named() {
    let (log, _guard) = Log::capture();
    let mut listener = scheduler(&run()).await.with_handshake_max(Duration::from_secs(1));
    let mut silent = TcpStream::connect(listener.address()).await.unwrap();
    let named = silent.local_addr().unwrap().to_string();
    let ended = async { silent.read(&mut [0; 16]).await };
    tokio::select! {
        _ = listener.accept() => panic!("a silent peer was let in"),
        ended = timeout(HANG, ended) => assert!(matches!(ended, Ok(Ok(0) | Err(_)))),
    }
    log.wait_for(&named, "did not finish the handshake within 1 s").await;
}

#[tokio::test]
async fn nobody_listening_is_said_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let client = connector(&run(), Role::Client);
    let refused = timeout(HANG, client.connect(&free, 10 * HANG)).await.expect("it does not try again");
    let error = refused.unwrap_err();
    assert!(matches!(&error, ConnectError::Unreachable { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot reach {free}"));
}

#[tokio::test]
async fn a_listener_that_says_nothing_times_out() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = connector(&run(), Role::Client);
    let at = mute.local_addr().unwrap().to_string();
    let error = client.connect(&at, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{at} did not answer within 0.2 s"));
}
