//! A bad line for whole IP packets, so that TCP feels it: two network namespaces whose only way to each
//! other leads through the model of the line.
//!
//! Packets travel as VXLAN, the kernel's own way to put them into UDP datagrams, which we relay as any
//! others; the line is charged for the packets alone. Needs root, `ip` and a kernel with VXLAN;
//! [`may_join`] says whether it can be had.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};

use super::{
    Arc, CancellationToken, DATAGRAM_BYTES_MAX, Direction, Exit, JoinHandle, Lane, Link, Profile,
    SocketAddr, UdpSocket,
};
use crate::account::Account;
use crate::ports;

/// Where VXLAN listens.
const VXLAN_PORT: u16 = 4789;
/// What VXLAN puts before an IP packet: its own header and that of an Ethernet frame.
const VXLAN_BYTES: isize = 22;
/// Largest IP packet on the line.
const MTU: u32 = 1500;

/// Whether this process may make such lines; said once, loudly, when not.
pub fn may_join() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let tried = PacketLine::start();
        if let Err(error) = &tried {
            // Not by a macro: what those print is only shown for tests that fail.
            let _ = writeln!(
                std::io::stderr(),
                "NOT RUN: whatever needs TCP over a bad line, because network namespaces cannot be \
                 had here ({error:#}); run it as root"
            );
        }
        tried.is_ok()
    })
}

/// One end of a line: programs started here see the other end and nothing else.
#[derive(Debug, Clone)]
pub struct End {
    /// The network namespace, as `ip netns` knows it.
    pub namespace: String,
    /// Its address on the line.
    pub address: Ipv4Addr,
}

impl End {
    /// A program that runs here, under an account if one is given.
    pub fn enter(&self, program: &Path, account: Option<Account>, dir: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        if let Some((uid, gid)) = account.map(Account::numbers) {
            command.args([format!("--setuid={uid}"), format!("--setgid={gid}")]);
        }
        command.arg("--").arg(program).current_dir(dir).stdin(Stdio::null());
        command
    }
}

/// A running line. "Up" is from end a to end b. Gone, with its namespaces, when dropped.
#[derive(Debug)]
pub struct PacketLine {
    a: End,
    b: End,
    link: Arc<Link>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _namespaces: [Namespace; 2],
}

impl PacketLine {
    /// Makes a line, open and without delay or loss.
    ///
    /// # Errors
    /// It cannot be made here; see [`may_join`].
    pub fn start() -> anyhow::Result<Self> {
        // One of the 2^15 sets of eight addresses that are set aside for benchmarks (RFC 2544): the port
        // is ours alone, so they are, too.
        let drawn = u32::from(ports::draw()?);
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (drawn % (1 << 14)) * 8;
        let namespaces = [Namespace::make(drawn, 0, base)?, Namespace::make(drawn, 1, base)?];
        let [a, b] = namespaces.each_ref().map(|made| made.end.clone());
        let sockets = [bind(namespaces[0].here)?, bind(namespaces[1].here)?];
        let link = Arc::new(Link::default());
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (run_link, run_stop) = (link.clone(), stop.clone());
        let far = namespaces.each_ref().map(|made| SocketAddr::from((made.underlay, VXLAN_PORT)));
        let thread = std::thread::Builder::new()
            .name("packet-line".into())
            .spawn(move || runtime.block_on(run(sockets, far, run_link, run_stop)))?;
        Ok(Self { a, b, link, stop, thread: Some(thread), _namespaces: namespaces })
    }

    /// The end that sends up.
    pub fn a(&self) -> &End {
        &self.a
    }

    /// The end that sends down.
    pub fn b(&self) -> &End {
        &self.b
    }

    /// Sets how TCP controls congestion at both ends, such as `cubic`, for connections made from now on.
    ///
    /// # Errors
    /// The kernel does not know it.
    pub fn set_tcp(&self, control: &str) -> anyhow::Result<()> {
        for End { namespace, address } in [&self.a, &self.b] {
            // Per route: a namespace of its own may only choose from what the first one allows.
            ip(&format!(
                "-n {namespace} route replace 10.77.0.0/24 dev line src {address} congctl {control}"
            ))?;
        }
        Ok(())
    }

    /// Makes it this kind of line from now on; its outages are counted from now.
    pub fn set_profile(&self, profile: &Profile) {
        self.link.set_profile(profile);
    }

    /// Bytes put on the line so far, (up, down): of whole IP packets, those that were lost included.
    pub fn metered(&self) -> (u64, u64) {
        self.link.metered()
    }
}

impl Drop for PacketLine {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) && !std::thread::panicking() {
            panic!("the thread of the line panicked");
        }
    }
}

async fn run(
    sockets: [std::net::UdpSocket; 2],
    far: [SocketAddr; 2],
    link: Arc<Link>,
    stop: CancellationToken,
) {
    let [a, b] =
        sockets.map(|socket| Arc::new(UdpSocket::from_std(socket).expect("take over the socket")));
    let lane = |socket: &Arc<UdpSocket>, to, direction| {
        let (socket, link, header_bytes) = (Arc::clone(socket), link.clone(), -VXLAN_BYTES);
        Lane::open(Exit { socket, to, link, direction, header_bytes })
    };
    let up = carry(&a, lane(&b, far[1], Direction::Up));
    let down = carry(&b, lane(&a, far[0], Direction::Down));
    tokio::select! {
        () = stop.cancelled() => {}
        () = up => {}
        () = down => {}
    }
}

async fn carry(from: &UdpSocket, lane: Lane) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error here is the echo of an earlier datagram that found nobody.
        if let Ok((bytes, _)) = from.recv_from(&mut buffer).await {
            lane.push(&buffer[..bytes]);
        }
    }
}

/// A namespace with an end of the line in it.
#[derive(Debug)]
struct Namespace {
    end: End,
    /// Its address towards us, and ours towards it.
    underlay: Ipv4Addr,
    here: Ipv4Addr,
}

impl Namespace {
    fn make(drawn: u32, number: u8, base: u32) -> anyhow::Result<Self> {
        let addresses = base + u32::from(number) * 4;
        let (underlay, here) = (Ipv4Addr::from(addresses + 1), Ipv4Addr::from(addresses + 2));
        let namespace = format!("landfall-{drawn}-{number}");
        ip(&format!("netns add {namespace}"))?;
        let address = Ipv4Addr::new(10, 77, 0, number + 1);
        // From here on it goes away again if something fails.
        let made = Self { end: End { namespace, address }, underlay, here };
        made.connect(drawn, number)?;
        Ok(made)
    }

    /// A pair of devices leads to us; on it, VXLAN stands for the line.
    fn connect(&self, drawn: u32, number: u8) -> anyhow::Result<()> {
        let Self { end: End { namespace, address }, underlay, here } = self;
        let pair = format!("lf{drawn}x{number}");
        let mac = |number: u8| format!("02:00:00:00:00:{number:02x}");
        let (own, other) = (mac(number + 1), mac(2 - number));
        let neighbour = Ipv4Addr::new(10, 77, 0, 2 - number);
        ip(&format!("link add {pair} type veth peer name under netns {namespace}"))?;
        ip(&format!("addr add {here}/30 dev {pair}"))?;
        ip(&format!("link set {pair} mtu {} up", MTU + 100))?;
        for command in [
            "link set lo up".to_owned(),
            format!("addr add {underlay}/30 dev under"),
            format!("link set under mtu {} up", MTU + 100),
            // A checksum that is left to the network card travels as such, for there is none.
            format!(
                "link add line type vxlan id 1 dev under local {underlay} remote {here} \
                 dstport {VXLAN_PORT} nolearning remcsumtx remcsumrx"
            ),
            // Packets as they would be on the line, not in bunches. No IPv6, which would talk.
            format!("link set line address {own} mtu {MTU} gso_max_segs 1 addrgenmode none up"),
            format!("addr add {address}/24 dev line"),
            format!("neigh add {neighbour} lladdr {other} dev line nud permanent"),
        ] {
            ip(&format!("-n {namespace} {command}"))?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.end.namespace)) {
            eprintln!("a network namespace is left behind: {error:#}");
        }
    }
}

fn bind(address: Ipv4Addr) -> anyhow::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((address, VXLAN_PORT));
    let socket = socket.with_context(|| format!("bind {address}:{VXLAN_PORT}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.context("start ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {}", said.trim());
    Ok(())
}
