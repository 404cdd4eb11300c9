//! A UDP relay in user space: the bad link between two members. It stands in front of one address
//! and can be cut, healed, or made like any link of `profiles.toml`, all at run time and without
//! privileges.
//!
//! "Up" is from whoever calls towards the target, "down" is back.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

mod line;
mod packets;
#[cfg(test)]
mod tests;

pub use line::Profile;
use line::{Line, Passage, lines};
pub use packets::{End, PacketLine, may_join};

/// Callers remembered; each has a socket of its own towards the target. Further ones are ignored.
const FLOWS_MAX: usize = 256;
/// Datagrams on the way in one direction of one flow; more are dropped, as routers do.
const IN_FLIGHT_MAX: usize = 4096;
/// Largest UDP payload over IPv4, in bytes.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// IPv4 and UDP headers of a datagram, which take the line's time, too.
const HEADER_BYTES: isize = 28;

/// What has come through so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Relayed {
    /// UDP payload bytes towards the target.
    pub bytes_up: u64,
    /// UDP payload bytes towards the callers.
    pub bytes_down: u64,
    /// Datagrams towards the target.
    pub datagrams_up: u64,
    /// Datagrams towards the callers.
    pub datagrams_down: u64,
    /// Datagrams dropped, in both directions: cut off, or out of luck. Not in the other counters.
    pub dropped: u64,
    /// When the latest one went through.
    pub last: Option<Instant>,
    /// Whether the link is cut at the moment.
    pub is_cut: bool,
}

impl Relayed {
    /// Datagrams in both directions.
    pub fn datagrams(&self) -> u64 {
        self.datagrams_up + self.datagrams_down
    }
}

/// A running relay. Ends, with its thread and sockets, when dropped.
#[derive(Debug)]
pub struct UdpRelay {
    addr: SocketAddr,
    link: Arc<Link>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl UdpRelay {
    /// Starts a relay to `target` on a loopback port of its own, open and without delay or loss.
    ///
    /// # Panics
    /// When the system gives no socket or thread.
    pub fn start(target: SocketAddr) -> Self {
        let front = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a udp port");
        front.set_nonblocking(true).expect("make the udp socket non-blocking");
        let addr = front.local_addr().expect("address of a bound socket");
        let link = Arc::new(Link::default());
        let stop = CancellationToken::new();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (run_link, run_stop) = (link.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("udp-relay".into())
            .spawn(move || runtime.block_on(run(front, target, run_link, run_stop)))
            .expect("start the relay thread");
        Self { addr, link, stop, thread: Some(thread) }
    }

    /// Where to call instead of the target.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Drops everything from now on, also what is under way.
    pub fn cut(&self) {
        self.link.set_cut(true);
    }

    /// Undoes a cut, however it came.
    pub fn heal(&self) {
        self.link.lock().bytes_left = None;
        self.link.set_cut(false);
    }

    /// Makes it this kind of link from now on; its outages are counted from now. What is under way
    /// arrives as it would have.
    pub fn set_profile(&self, profile: &Profile) {
        self.link.set_profile(profile);
    }

    /// Cuts the link when `bytes` more have gone through, both directions together. The datagram
    /// that would exceed them is the first that is lost.
    pub fn cut_after_bytes(&self, bytes: u64) {
        self.link.lock().bytes_left = Some(bytes);
    }

    /// Bytes relayed so far: (up, down).
    pub fn bytes(&self) -> (u64, u64) {
        let relayed = self.relayed();
        (relayed.bytes_up, relayed.bytes_down)
    }

    /// Bytes put on the line so far, (up, down): of whole IP packets, those that were lost included.
    pub fn metered(&self) -> (u64, u64) {
        self.link.metered()
    }

    /// All counters at this moment.
    pub fn relayed(&self) -> Relayed {
        *self.link.relayed.borrow()
    }

    /// Waits until the counters are as wanted, and returns them.
    ///
    /// # Panics
    /// When that does not come about within `limit`.
    pub async fn wait_for(&self, limit: Duration, wanted: impl FnMut(&Relayed) -> bool) -> Relayed {
        let mut relayed = self.link.relayed.subscribe();
        match tokio::time::timeout(limit, relayed.wait_for(wanted)).await {
            Ok(Ok(relayed)) => *relayed,
            _ => panic!("the relay did not get there in {limit:?}: {:?}", self.relayed()),
        }
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) && !std::thread::panicking() {
            panic!("the relay thread panicked");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Up = 0,
    Down = 1,
}

/// The state of the link, shared by the owner and the thread.
#[derive(Debug)]
struct Link {
    weather: Mutex<Weather>,
    relayed: watch::Sender<Relayed>,
}

#[derive(Debug)]
struct Weather {
    lines: [Line; 2],
    metered: [u64; 2],
    bytes_left: Option<u64>,
}

impl Default for Link {
    fn default() -> Self {
        let lines = lines(&Profile::default(), Instant::now());
        let weather = Weather { lines, metered: [0; 2], bytes_left: None };
        Self { weather: Mutex::new(weather), relayed: watch::Sender::default() }
    }
}

impl Link {
    fn lock(&self) -> std::sync::MutexGuard<'_, Weather> {
        self.weather.lock().expect("nothing panics under this lock")
    }

    fn set_cut(&self, is_cut: bool) {
        self.relayed.send_modify(|relayed| relayed.is_cut = is_cut);
    }

    fn set_profile(&self, profile: &Profile) {
        self.lock().lines = lines(profile, Instant::now());
    }

    fn metered(&self) -> (u64, u64) {
        let [up, down] = self.lock().metered;
        (up, down)
    }

    /// How a packet of so many bytes that comes in now is to go out; `None` if it is lost.
    fn take_in(&self, bytes: usize, direction: Direction) -> Option<Passage> {
        let mut weather = self.lock();
        weather.metered[direction as usize] += u64::try_from(bytes).expect("a packet");
        let passage = weather.lines[direction as usize].take_in(bytes, Instant::now());
        let passage = passage.filter(|_| !self.relayed.borrow().is_cut);
        drop(weather);
        if passage.is_none() {
            self.drop_one();
        }
        passage
    }

    fn drop_one(&self) {
        self.relayed.send_modify(|relayed| relayed.dropped += 1);
    }

    /// Whether a datagram that is due may go out; counts it.
    fn let_out(&self, bytes: usize, direction: Direction) -> bool {
        let bytes = u64::try_from(bytes).expect("a datagram");
        let mut weather = self.lock();
        let mut let_out = false;
        self.relayed.send_modify(|relayed| {
            if relayed.is_cut {
                relayed.dropped += 1;
                return;
            }
            if let Some(left) = weather.bytes_left {
                let Some(left) = left.checked_sub(bytes) else {
                    relayed.is_cut = true;
                    relayed.dropped += 1;
                    return;
                };
                weather.bytes_left = Some(left);
            }
            relayed.count(bytes, direction);
            let_out = true;
        });
        let_out
    }
}

impl Relayed {
    fn count(&mut self, bytes: u64, direction: Direction) {
        let (bytes_sum, datagrams) = match direction {
            Direction::Up => (&mut self.bytes_up, &mut self.datagrams_up),
            Direction::Down => (&mut self.bytes_down, &mut self.datagrams_down),
        };
        *bytes_sum += bytes;
        *datagrams += 1;
        self.last = Some(Instant::now());
    }
}

/// The thread's work. All its tasks end with its runtime.
async fn run(
    front: std::net::UdpSocket,
    target: SocketAddr,
    link: Arc<Link>,
    stop: CancellationToken,
) {
    let front = Arc::new(UdpSocket::from_std(front).expect("take over the socket"));
    tokio::select! {
        () = stop.cancelled() => {}
        error = take_calls(&front, target, &link) => panic!("relay: {error}"),
    }
}

async fn take_calls(front: &Arc<UdpSocket>, target: SocketAddr, link: &Arc<Link>) -> io::Error {
    let mut flows: HashMap<SocketAddr, Lane> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error here is the echo of an earlier datagram that found nobody.
        let Ok((bytes, caller)) = front.recv_from(&mut buffer).await else { continue };
        if !flows.contains_key(&caller) {
            if flows.len() == FLOWS_MAX {
                continue;
            }
            match open_flow(front.clone(), caller, target, link.clone()).await {
                Ok(up) => flows.insert(caller, up),
                Err(error) => return error,
            };
        }
        flows[&caller].push(&buffer[..bytes]);
    }
}

/// A socket of its own for this caller, so that answers find their way back.
async fn open_flow(
    front: Arc<UdpSocket>,
    caller: SocketAddr,
    target: SocketAddr,
    link: Arc<Link>,
) -> io::Result<Lane> {
    let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    back.connect(target).await?;
    let exit = |socket, to, direction| Exit {
        socket,
        to,
        link: link.clone(),
        direction,
        header_bytes: HEADER_BYTES,
    };
    let up = Lane::open(exit(Arc::clone(&back), target, Direction::Up));
    let down = Lane::open(exit(front, caller, Direction::Down));
    tokio::spawn(async move {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            // An error here says that the target does not listen; it may do so later.
            if let Ok(bytes) = back.recv(&mut buffer).await {
                down.push(&buffer[..bytes]);
            }
        }
    });
    Ok(up)
}

/// One direction of one flow: datagrams waiting for their time, in order.
#[derive(Debug)]
struct Lane {
    exit: Arc<Exit>,
    waiting: mpsc::Sender<(Instant, Vec<u8>)>,
}

/// Where a lane ends.
#[derive(Debug)]
struct Exit {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    link: Arc<Link>,
    direction: Direction,
    /// What a packet on the line has beyond the datagram here, in bytes.
    header_bytes: isize,
}

impl Exit {
    async fn let_out(&self, at: Instant, datagram: &[u8]) {
        // The timer counts in whole milliseconds and would round up.
        if at > Instant::now() {
            tokio::time::sleep_until(at.into()).await;
        }
        if self.link.let_out(datagram.len(), self.direction) {
            // A datagram that cannot be sent is lost, as on any link.
            let _ = self.socket.send_to(datagram, self.to).await;
        }
    }
}

impl Lane {
    fn open(exit: Exit) -> Self {
        let (waiting, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT_MAX);
        let exit = Arc::new(exit);
        let end = Arc::clone(&exit);
        tokio::spawn(async move {
            while let Some((at, datagram)) = due.recv().await {
                end.let_out(at, &datagram).await;
            }
        });
        Self { exit, waiting }
    }

    fn push(&self, datagram: &[u8]) {
        let Exit { link, direction, header_bytes, .. } = &*self.exit;
        let bytes = datagram.len().saturating_add_signed(*header_bytes);
        let Some(passage) = link.take_in(bytes, *direction) else { return };
        for _ in 0..=u8::from(passage.twice) {
            let (at, datagram) = (passage.at, datagram.to_vec());
            if passage.held_back {
                let exit = Arc::clone(&self.exit);
                tokio::spawn(async move { exit.let_out(at, &datagram).await });
            } else if self.waiting.try_send((at, datagram)).is_err() {
                // Full: dropped, as a router does.
                link.drop_one();
            }
        }
    }
}
