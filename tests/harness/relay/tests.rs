//! The relay itself, and links of the engine through it.

use std::net::{IpAddr, UdpSocket};

use landfall_engine::identity::MemberKey;
use landfall_engine::transport::{
    Connection, Endpoint, FrameError, TransportError, TransportSettings,
};
use landfall_protocol::id::PublicKey;

use super::*;
use crate::cluster::Cluster;
use crate::wait;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Ends a test that would otherwise hang; no test waits for it when all is well.
const LIMIT: Duration = Duration::from_secs(30);

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (bytes, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..bytes].to_vec(), from)
}

#[test]
fn several_callers_each_get_their_own_answers() {
    let target = socket();
    let relay = UdpRelay::start(target.local_addr().unwrap());
    let callers = [socket(), socket(), socket()];
    for (n, caller) in (0u8..).zip(&callers) {
        caller.send_to(&[n], relay.addr()).unwrap();
        let (datagram, from) = receive(&target);
        assert_eq!(datagram, [n]);
        target.send_to(&[n, n], from).unwrap();
    }
    for (n, caller) in (0u8..).zip(&callers) {
        assert_eq!(receive(caller), (vec![n, n], relay.addr()));
    }
    assert_eq!(relay.bytes(), (3, 6));
    assert_eq!(relay.relayed().datagrams(), 6);
}

#[tokio::test]
async fn cut_link_carries_nothing_until_healed() {
    let target = socket();
    let relay = UdpRelay::start(target.local_addr().unwrap());
    let caller = socket();
    relay.cut();
    caller.send_to(b"lost", relay.addr()).unwrap();
    relay.wait_for(LIMIT, |relayed| relayed.dropped == 1).await;
    relay.heal();
    caller.send_to(b"heard", relay.addr()).unwrap();
    let relayed = relay.wait_for(LIMIT, |relayed| relayed.datagrams_up == 1).await;
    assert_eq!(relayed.bytes_up, 5);
    assert_eq!(receive(&target).0, b"heard");
}

#[tokio::test]
async fn link_is_cut_after_so_many_bytes() {
    let target = socket();
    let relay = UdpRelay::start(target.local_addr().unwrap());
    let caller = socket();
    relay.cut_after_bytes(10);
    for _ in 0..4 {
        caller.send_to(b"four", relay.addr()).unwrap();
    }
    let relayed = relay.wait_for(LIMIT, |relayed| relayed.dropped == 2).await;
    assert!(relayed.is_cut);
    assert_eq!((relayed.bytes_up, relayed.datagrams_up), (8, 2));
    relay.heal();
    caller.send_to(b"four", relay.addr()).unwrap();
    relay.wait_for(LIMIT, |relayed| relayed.datagrams_up == 3).await;
}

#[tokio::test]
async fn loss_is_about_as_wanted_and_delay_keeps_the_order() {
    let target = socket();
    let relay = UdpRelay::start(target.local_addr().unwrap());
    let caller = socket();
    relay.set_profile(&Profile::default().with_loss(0.5));
    for _ in 0..200 {
        caller.send_to(b"x", relay.addr()).unwrap();
    }
    let lossy =
        relay.wait_for(LIMIT, |relayed| relayed.datagrams_up + relayed.dropped == 200).await;
    assert!((70..=130).contains(&lossy.dropped), "{} of 200 at 50 % loss", lossy.dropped);
    relay.set_profile(&Profile::default().with_delay(20.0));
    let sent = Instant::now();
    for n in 0u8..10 {
        caller.send_to(&[n, n], relay.addr()).unwrap();
    }
    let received: Vec<_> = std::iter::repeat_with(|| receive(&target).0)
        .filter(|datagram| datagram.len() == 2)
        .take(10)
        .collect();
    assert!(sent.elapsed() >= Duration::from_millis(20), "{:?}", sent.elapsed());
    assert_eq!(received, (0u8..10).map(|n| vec![n, n]).collect::<Vec<_>>());
}

/// Two members that know each other; the ship dials the port through a relay.
struct World {
    ship: Endpoint,
    port: Endpoint,
    port_key: PublicKey,
    relay: UdpRelay,
}

impl World {
    fn new(settings: &TransportSettings) -> Self {
        let (ship_key, port_key) = (MemberKey::generate().unwrap(), MemberKey::generate().unwrap());
        let pins = |key: PublicKey, name: &str| [(key, name.to_owned())].into_iter().collect();
        let bind = |key, pins| Endpoint::bind(LOOPBACK, key, pins, settings.clone()).unwrap();
        let ship = bind(&ship_key, pins(port_key.public(), "port"));
        let port = bind(&port_key, pins(ship_key.public(), "ship"));
        let relay = UdpRelay::start(port.local_addr().unwrap());
        Self { ship, port, port_key: port_key.public(), relay }
    }

    /// The connection as the ship and as the port see it.
    async fn connect(&self) -> (Connection, Connection) {
        let (dialled, accepted) =
            tokio::join!(self.ship.dial(self.relay.addr(), self.port_key), async {
                self.port.accept().await.unwrap().establish().await
            });
        (dialled.unwrap(), accepted.unwrap())
    }
}

/// Sends a frame each way, one after the other.
async fn exchange(one: &Connection, other: &Connection) {
    for (from, to) in [(one, other), (other, one)] {
        let mut writer = from.open_uni(FRAME_BYTES_MAX).await.unwrap();
        writer.send(b"hello".as_slice().into()).await.unwrap();
        writer.finish().await.unwrap();
        let mut reader = to.accept_uni(FRAME_BYTES_MAX).await.unwrap();
        assert_eq!(reader.next().await.unwrap().as_deref(), Some(b"hello".as_slice()));
        assert_eq!(reader.next().await, Ok(None));
    }
}

fn is_timed_out(error: &TransportError) -> bool {
    matches!(error, TransportError::Lost { why: "timed out", .. })
}

#[tokio::test]
async fn handshake_fits_into_three_kilobytes_up_and_two_down() {
    let settings = TransportSettings { mtu_discovery: false, ..TransportSettings::default() };
    let world = World::new(&settings);
    let (dialled, accepted) = world.connect().await;
    let at_dial = world.relay.relayed();
    exchange(&dialled, &accepted).await;
    let after_frames = world.relay.relayed();
    // Shown by `--nocapture`.
    println!("handshake: {at_dial:?}; with a frame each way: {after_frames:?}");
    assert!(after_frames.bytes_up < 3_000 && after_frames.bytes_down < 2_200, "{after_frames:?}");
}

#[tokio::test]
async fn idle_link_is_silent() {
    let idle_timeout = Duration::from_millis(1500);
    let settings = TransportSettings { idle_timeout, ..TransportSettings::default() };
    let world = World::new(&settings);
    let (dialled, accepted) = world.connect().await;
    exchange(&dialled, &accepted).await;
    // Anything either side sent would have put off the time-out, so the end itself is the proof.
    let (dialled_end, accepted_end) = tokio::join!(dialled.closed(), accepted.closed());
    let ended = Instant::now();
    assert!(is_timed_out(&dialled_end) && is_timed_out(&accepted_end), "{dialled_end}");
    let relayed = world.relay.relayed();
    let silence = ended - relayed.last.unwrap();
    assert!(silence >= idle_timeout.mul_f32(0.9), "{silence:?}");
    assert!(relayed.datagrams() < 60, "{relayed:?}");
}

#[tokio::test]
async fn keep_alive_keeps_the_link_beyond_the_idle_timeout() {
    let settings = TransportSettings {
        idle_timeout: Duration::from_millis(600),
        keep_alive: Some(Duration::from_millis(50)),
        ..TransportSettings::default()
    };
    let world = World::new(&settings);
    let (dialled, accepted) = world.connect().await;
    exchange(&dialled, &accepted).await;
    let quiet = world.relay.relayed();
    let (from, datagrams) = (quiet.last.unwrap(), quiet.datagrams());
    let later = world
        .relay
        .wait_for(LIMIT, |now| now.last.unwrap() - from > Duration::from_millis(1500))
        .await;
    assert!(later.datagrams() >= datagrams + 20, "{quiet:?} {later:?}");
    exchange(&dialled, &accepted).await;
}

#[tokio::test]
async fn connection_outlives_an_outage() {
    let world = World::new(&TransportSettings::default());
    let (dialled, accepted) = world.connect().await;
    exchange(&dialled, &accepted).await;
    world.relay.cut();
    let mut writer = dialled.open_uni(FRAME_BYTES_MAX).await.unwrap();
    writer.send(b"written while away".as_slice().into()).await.unwrap();
    world.relay.wait_for(LIMIT, |relayed| relayed.dropped > 0).await;
    world.relay.heal();
    let mut reader = accepted.accept_uni(FRAME_BYTES_MAX).await.unwrap();
    let frame = reader.next().await.unwrap();
    assert_eq!(frame.as_deref(), Some(b"written while away".as_slice()));
}

#[tokio::test]
async fn link_cut_in_the_middle_is_lost_and_can_be_dialled_again() {
    let settings =
        TransportSettings { idle_timeout: Duration::from_millis(500), ..Default::default() };
    let world = World::new(&settings);
    for bytes in [100, 5_000, 70_000, 400_000] {
        let (dialled, accepted) = world.connect().await;
        world.relay.cut_after_bytes(bytes);
        let mut writer = dialled.open_uni(FRAME_BYTES_MAX).await.unwrap();
        let send = async {
            loop {
                if let Err(error) = writer.send(vec![1; FRAME_BYTES_MAX].into()).await {
                    break error;
                }
            }
        };
        let receive = async {
            match accepted.accept_uni(FRAME_BYTES_MAX).await {
                Ok(mut reader) => reader.next().await.unwrap_err(),
                Err(error) => error.into(),
            }
        };
        let (sender_end, receiver_end) = tokio::join!(send, receive);
        for end in [sender_end, receiver_end] {
            let FrameError::Connection(end) = end else { panic!("{end}") };
            assert!(is_timed_out(&end), "{end}");
        }
        world.relay.heal();
    }
    let (dialled, accepted) = world.connect().await;
    exchange(&dialled, &accepted).await;
}

#[tokio::test]
async fn lossy_slow_link_still_delivers() {
    let world = World::new(&TransportSettings::default());
    world.relay.set_profile(&Profile::default().with_loss(0.1).with_delay(10.0));
    let (dialled, accepted) = world.connect().await;
    exchange(&dialled, &accepted).await;
    assert!(dialled.rtt() >= Duration::from_millis(20), "{:?}", dialled.rtt());
}

#[test]
fn tcp_feels_the_line_between_two_namespaces() {
    if !may_join() {
        return;
    }
    let line = PacketLine::start().unwrap();
    let [publisher, subscriber] = [("publisher", line.a()), ("subscriber", line.b())]
        .map(|(name, end)| Cluster::options(name).inside(end).start().unwrap());
    line.set_profile(&Profile::default().with_delay(40.0).with_loss(0.05));
    publisher.sql(
        "postgres",
        "CREATE TABLE copied AS SELECT g, repeat('x', 100) FROM generate_series(1, 1000) g;
         CREATE PUBLICATION lines FOR TABLE copied",
    );
    subscriber.sql("postgres", "CREATE TABLE copied (g integer, repeat text)");
    let began = Instant::now();
    let source = publisher.conninfo("postgres");
    let sql = format!("CREATE SUBSCRIPTION lines CONNECTION '{source}' PUBLICATION lines");
    subscriber.sql("postgres", &sql);
    wait::wait_for("the copy", LIMIT, || {
        let rows = subscriber.query_value("postgres", "SELECT count(*) FROM copied");
        rows.filter(|rows| rows == "1000")
    });
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
    let (up, down) = line.metered();
    assert!((100_000..300_000).contains(&up) && (500..50_000).contains(&down), "{up}, {down}");
}

#[tokio::test]
async fn a_small_frame_overtakes_bulk_that_was_begun_before() {
    let world = World::new(&TransportSettings::default());
    let (dialled, accepted) = world.connect().await;
    world.relay.set_profile(&Profile::named("vsat-geo").unwrap());
    let mut bulk = dialled.open_uni(FRAME_BYTES_MAX).await.unwrap();
    bulk.set_priority(-1);
    let sending = tokio::spawn(async move {
        bulk.send(vec![7; 300_000].into()).await.unwrap();
        bulk.finish().await.unwrap();
    });
    // The bulk is under way before there is a small frame.
    world.relay.wait_for(LIMIT, |relayed| relayed.bytes_up > 50_000).await;
    let mut small = dialled.open_uni(FRAME_BYTES_MAX).await.unwrap();
    let began = Instant::now();
    small.send(b"hurry".as_slice().into()).await.unwrap();
    small.finish().await.unwrap();
    let mut bulk = accepted.accept_uni(FRAME_BYTES_MAX).await.unwrap();
    let mut small = accepted.accept_uni(FRAME_BYTES_MAX).await.unwrap();
    assert_eq!(small.next().await.unwrap().as_deref(), Some(b"hurry".as_slice()));
    let took = began.elapsed();
    assert_eq!(bulk.next().await.unwrap().map(|frame| frame.len()), Some(300_000));
    sending.await.unwrap();
    assert!(took < Duration::from_secs(3) && took < began.elapsed(), "{took:?}");
}
