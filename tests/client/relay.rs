//! A relay between a client and its scheduler that cuts, stalls and half-opens connections when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How often a thread looks at what it is to do.
const LOOK: Duration = Duration::from_millis(5);

/// A running relay; it ends when dropped.
pub(crate) struct Relay {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    links: Vec<Link>,
    /// Connections so far.
    accepted: usize,
    /// What each direction of a connection may carry before it is cut: least and most, in bytes.
    budget: Option<(u64, u64)>,
    is_stalled: bool,
    /// New connections are closed at once.
    is_denying: bool,
    /// New connections are refused by the system.
    is_over: bool,
    random: u64,
}

struct Link {
    client: TcpStream,
    scheduler: TcpStream,
}

impl Relay {
    pub(crate) fn start(scheduler: &str) -> Self {
        let scheduler: SocketAddr = scheduler.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::<Shared>::default();
        shared.state().random = 0x9E37_79B9_7F4A_7C15;
        let relaying = shared.clone();
        thread::spawn(move || relaying.accept(&listener, scheduler));
        Self { address, shared }
    }

    /// Cuts all connections, at both ends.
    pub(crate) fn cut(&self) {
        for link in self.shared.state().links.drain(..) {
            let _ = link.client.shutdown(Shutdown::Both);
            let _ = link.scheduler.shutdown(Shutdown::Both);
        }
    }

    /// Cuts the client's ends only; the scheduler notices nothing.
    pub(crate) fn half_open(&self) {
        for link in &self.shared.state().links {
            let _ = link.client.shutdown(Shutdown::Both);
        }
    }

    /// Cuts the scheduler's ends only; the client notices nothing.
    pub(crate) fn half_open_other(&self) {
        for link in &self.shared.state().links {
            let _ = link.scheduler.shutdown(Shutdown::Both);
        }
    }

    /// Cuts each connection that follows after a number of bytes between these.
    pub(crate) fn cut_after(&self, least_bytes: u64, most_bytes: u64) {
        self.shared.state().budget = Some((least_bytes, most_bytes));
    }

    /// Cuts no more by itself.
    pub(crate) fn be_kind(&self) {
        self.shared.state().budget = None;
    }

    /// Holds all bytes back, or lets them go.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.shared.state().is_stalled = is_stalled;
        self.shared.changed.notify_all();
    }

    /// Closes new connections at once, or lets them through.
    pub(crate) fn deny(&self, is_denying: bool) {
        self.shared.state().is_denying = is_denying;
    }

    /// Listens no more.
    pub(crate) fn end(&self) {
        self.shared.state().is_over = true;
        self.cut();
    }

    /// How many connections there were.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.state().accepted
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stall(false);
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, scheduler: SocketAddr) {
        while !self.state().is_over {
            let Ok((client, _)) = listener.accept() else {
                thread::sleep(LOOK);
                continue;
            };
            if self.state().is_denying {
                continue;
            }
            let Ok(scheduler) = TcpStream::connect(scheduler) else { continue };
            client.set_nonblocking(false).unwrap();
            let mut state = self.state();
            state.accepted += 1;
            let (up, down) = (state.draw(), state.draw());
            let twin = |stream: &TcpStream| stream.try_clone().unwrap();
            state.links.push(Link { client: twin(&client), scheduler: twin(&scheduler) });
            drop(state);
            let (one, other) = (self.clone(), self.clone());
            let (from, to) = (twin(&client), twin(&scheduler));
            thread::spawn(move || one.carry(from, to, up));
            thread::spawn(move || other.carry(scheduler, client, down));
        }
    }

    /// Carries one direction; with a budget, until that is used up.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, budget_bytes: Option<u64>) {
        let mut left_bytes = budget_bytes.unwrap_or(u64::MAX);
        let mut piece = [0; 3000];
        loop {
            let Ok(bytes @ 1..) = from.read(&mut piece) else {
                // The other half of a half-open connection stays as it is.
                return;
            };
            drop(self.changed.wait_while(self.state(), |state| state.is_stalled).unwrap());
            let carried = bytes.min(usize::try_from(left_bytes).unwrap_or(usize::MAX));
            left_bytes -= carried as u64;
            if to.write_all(&piece[..carried]).is_err() || left_bytes == 0 {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

impl State {
    /// The budget of one direction of one connection.
    fn draw(&mut self) -> Option<u64> {
        let (least, most) = self.budget?;
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(least + (self.random >> 33) % (most - least))
    }
}
