//! Two endpoints on the loopback device.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use landfall_protocol::id::PublicKey;

use super::carrier::SendStream;
use super::*;
use crate::identity::MemberKey;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const FRAME_BYTES_MAX: usize = 1 << 20;

struct Member {
    key: PublicKey,
    endpoint: Endpoint,
}

impl Member {
    fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    async fn accept(&self) -> Result<Connection, TransportError> {
        self.endpoint.accept().await.unwrap().establish().await
    }
}

fn keys() -> (MemberKey, MemberKey) {
    (MemberKey::generate().unwrap(), MemberKey::generate().unwrap())
}

fn member(key: &MemberKey, pins: &[(PublicKey, &str)]) -> Member {
    member_with(key, pins, TransportSettings::default(), ALPN)
}

fn member_with(
    key: &MemberKey,
    pins: &[(PublicKey, &str)],
    settings: TransportSettings,
    alpn: &[u8],
) -> Member {
    let pins = pins.iter().copied().collect();
    let endpoint = Endpoint::bind_with_alpn(LOOPBACK, key, pins, settings, alpn).unwrap();
    Member { key: key.public(), endpoint }
}

fn member_at(addr: SocketAddr, key: &MemberKey, pins: &[(PublicKey, &str)]) -> Member {
    let pins = pins.iter().copied().collect();
    let endpoint = Endpoint::bind(addr, key, pins, TransportSettings::default()).unwrap();
    Member { key: key.public(), endpoint }
}

/// Two members that know each other, and their connection as the first and the second see it.
async fn linked() -> (Member, Member, Connection, Connection) {
    let (ship_key, port_key) = keys();
    let ship = member(&ship_key, &[(port_key.public(), "port")]);
    let port = member(&port_key, &[(ship_key.public(), "ship")]);
    let (dialled, accepted) =
        tokio::join!(ship.endpoint.dial(port.addr(), port.key), port.accept());
    (ship, port, dialled.unwrap(), accepted.unwrap())
}

#[tokio::test]
async fn members_learn_each_others_keys() {
    let (ship, port, dialled, accepted) = linked().await;
    assert_eq!((dialled.peer_key(), dialled.peer_name()), (port.key, "port"));
    assert_eq!((accepted.peer_key(), accepted.peer_name()), (ship.key, "ship"));
    assert_eq!(accepted.peer_addr(), ship.addr());
}

#[tokio::test]
async fn dialler_refuses_a_key_that_is_not_the_expected() {
    let (ship_key, impostor_key) = keys();
    let port_key = MemberKey::generate().unwrap().public();
    // The impostor is a member too, but not the one that was dialled.
    let pins = [(port_key, "port"), (impostor_key.public(), "store")];
    let ship = member(&ship_key, &pins);
    let impostor = member(&impostor_key, &[(ship.key, "ship")]);
    let (dialled, accepted) =
        tokio::join!(ship.endpoint.dial(impostor.addr(), port_key), impostor.accept());
    let error = dialled.unwrap_err();
    let fault = KeyFault::NotTheExpected { name: "port".into(), presented: impostor.key };
    assert_eq!(error, TransportError::WrongKey { addr: impostor.addr(), fault });
    let sentence = format!(
        "peer at {} presented a key that is not the one pinned for port: {}",
        impostor.addr(),
        impostor.key
    );
    assert_eq!(error.to_string(), sentence);
    let fault = KeyFault::OursRefused;
    assert_eq!(accepted.unwrap_err(), TransportError::WrongKey { addr: ship.addr(), fault });
}

#[tokio::test]
async fn acceptor_refuses_a_stranger_and_the_stranger_learns_why() {
    let (stranger_key, port_key) = keys();
    let stranger = member(&stranger_key, &[(port_key.public(), "port")]);
    let port = member(&port_key, &[(MemberKey::generate().unwrap().public(), "ship")]);
    let (dialled, accepted) =
        tokio::join!(stranger.endpoint.dial(port.addr(), port.key), port.accept());
    let fault = KeyFault::NotAMember { presented: stranger.key };
    assert_eq!(accepted.unwrap_err(), TransportError::WrongKey { addr: stranger.addr(), fault });
    // The dialler's handshake ends before the other side has seen its key.
    let (_, mut reader) = dialled.unwrap().open_bidi(FRAME_BYTES_MAX).await.unwrap();
    let fault = KeyFault::OursRefused;
    let refused = TransportError::WrongKey { addr: port.addr(), fault };
    assert_eq!(reader.next().await, Err(FrameError::Connection(refused)));
}

#[tokio::test]
async fn public_key_without_its_secret_is_refused_both_ways() {
    let (ship_key, thief_key) = keys();
    let port_key = MemberKey::generate().unwrap().public();
    let ship = member(&ship_key, &[(port_key, "port")]);
    let mut thief = member(&thief_key, &[(ship.key, "ship")]);
    thief.endpoint.claim(port_key);
    let (dialled, _) = tokio::join!(ship.endpoint.dial(thief.addr(), port_key), thief.accept());
    assert!(matches!(dialled, Err(TransportError::Handshake { .. })), "{dialled:?}");
    let (_, accepted) = tokio::join!(thief.endpoint.dial(ship.addr(), ship.key), ship.accept());
    assert!(matches!(accepted, Err(TransportError::Handshake { .. })), "{accepted:?}");
}

#[tokio::test]
async fn other_protocol_is_a_version_error_on_both_sides() {
    let (ship_key, port_key) = keys();
    let settings = TransportSettings::default;
    let ship = member_with(&ship_key, &[(port_key.public(), "port")], settings(), b"landfall/2");
    let port = member_with(&port_key, &[(ship.key, "ship")], settings(), ALPN);
    let (dialled, accepted) =
        tokio::join!(ship.endpoint.dial(port.addr(), port.key), port.accept());
    assert_eq!(dialled.unwrap_err(), TransportError::Version { addr: port.addr() });
    assert_eq!(accepted.unwrap_err(), TransportError::Version { addr: ship.addr() });
}

#[tokio::test]
async fn pins_can_be_replaced_while_connected() {
    let (ship, port, dialled, accepted) = linked().await;
    port.endpoint.set_pins(PinnedKeys::default());
    accepted.revoked().await;
    accepted.close(CloseCode::REVOKED, "fleet version 7");
    let closed = dialled.closed().await;
    assert!(
        matches!(&closed, TransportError::Closed { code: CloseCode::REVOKED, .. }),
        "{closed:?}"
    );
    assert!(
        closed.to_string().ends_with("closed the connection: key revoked: fleet version 7"),
        "{closed}"
    );
    let (_, refused) = tokio::join!(ship.endpoint.dial(port.addr(), port.key), port.accept());
    assert!(matches!(refused, Err(TransportError::WrongKey { .. })), "{refused:?}");
    port.endpoint.set_pins([(ship.key, "ship")].into_iter().collect());
    let (again, accepted) = tokio::join!(ship.endpoint.dial(port.addr(), port.key), port.accept());
    again.unwrap();
    assert_eq!(accepted.unwrap().peer_name(), "ship");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let settings = TransportSettings {
        handshake_timeout: Duration::from_millis(50),
        ..TransportSettings::default()
    };
    let (ship_key, port_key) = keys();
    let ship = member_with(&ship_key, &[], settings, ALPN);
    // Bound, so that nobody else is there, but deaf.
    let deaf = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let addr = deaf.local_addr().unwrap();
    let error = ship.endpoint.dial(addr, port_key.public()).await.unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn full_endpoint_says_busy() {
    let (ship_key, port_key) = keys();
    let ship = member(&ship_key, &[(port_key.public(), "port")]);
    let settings = TransportSettings { connections_max: 1, ..TransportSettings::default() };
    let port = member_with(&port_key, &[(ship.key, "ship")], settings, ALPN);
    let (first, accepted) = tokio::join!(ship.endpoint.dial(port.addr(), port.key), port.accept());
    let (_first, _accepted) = (first.unwrap(), accepted.unwrap());
    let (second, ()) = tokio::join!(ship.endpoint.dial(port.addr(), port.key), async {
        // Lets nobody in, but must be polled to say so.
        tokio::select! {
            let_in = port.endpoint.accept() => panic!("{let_in:?}"),
            _ = ship.endpoint.dial(port.addr(), port.key) => {}
        }
    });
    assert_eq!(second.unwrap_err(), TransportError::Busy { addr: port.addr() });
}

#[tokio::test]
async fn under_load_strangers_prove_their_address_first() {
    let (ship_key, port_key) = keys();
    let ship = member(&ship_key, &[(port_key.public(), "port")]);
    let settings = TransportSettings { retry_from_handshakes: 1, ..TransportSettings::default() };
    let port = member_with(&port_key, &[(ship.key, "ship")], settings, ALPN);
    let dial = || ship.endpoint.dial(port.addr(), port.key);
    let (first, second, accepted) = tokio::join!(dial(), dial(), async {
        let slow = port.endpoint.accept().await.unwrap();
        assert!(!slow.address_is_proven());
        // `slow` is still in progress, so the next one comes back with a token.
        let next = port.endpoint.accept().await.unwrap();
        assert!(next.address_is_proven());
        (slow.establish().await, next.establish().await)
    });
    first.unwrap();
    second.unwrap();
    accepted.0.unwrap();
    accepted.1.unwrap();
}

#[tokio::test]
async fn shut_down_is_told_to_peers() {
    let (_ship, port, dialled, _accepted) = linked().await;
    let (closed, ()) = tokio::join!(dialled.closed(), port.endpoint.shut_down("upgrade"));
    assert!(
        matches!(&closed, TransportError::Closed { code: CloseCode::SHUTDOWN, reason, .. } if reason == "upgrade"),
        "{closed:?}"
    );
    assert!(port.endpoint.accept().await.is_none());
}

#[test]
fn restarted_peer_says_so() {
    let (ship_key, port_key) = keys();
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The peer lives in a runtime of its own, whose end is its crash: no task says goodbye.
    let there =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ship = here.block_on(async { member(&ship_key, &[(port_key.public(), "port")]) });
    let former = there.block_on(async { member(&port_key, &[(ship.key, "ship")]) });
    let addr = former.addr();
    let greeting = there.spawn(async move {
        let accepted = former.accept().await.unwrap();
        let mut writer = accepted.open_uni(FRAME_BYTES_MAX).await.unwrap();
        writer.send(Bytes::from_static(b"hello")).await.unwrap();
        (former, accepted, writer)
    });
    let dialled = here.block_on(async {
        let dialled = ship.endpoint.dial(addr, port_key.public()).await.unwrap();
        let mut reader = dialled.accept_uni(FRAME_BYTES_MAX).await.unwrap();
        reader.next().await.unwrap();
        dialled
    });
    let handles = here.block_on(greeting).unwrap();
    there.shutdown_timeout(Duration::from_secs(10));
    drop(handles);

    let lost = here.block_on(async {
        let _restarted = member_at(addr, &port_key, &[(ship.key, "ship")]);
        let mut writer = dialled.open_uni(FRAME_BYTES_MAX).await.unwrap();
        writer.send(Bytes::from_static(b"are you there")).await.unwrap();
        // A limit well below the idle time-out, which would end it too.
        tokio::time::timeout(Duration::from_secs(30), dialled.closed()).await.expect("a reset")
    });
    let why = "the peer was restarted";
    assert_eq!(lost, TransportError::Lost { name: "port".into(), addr, why });
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order() {
    let (_ship, _port, dialled, accepted) = linked().await;
    let frames: Vec<Bytes> =
        [0, 1, 127, 128, 20_000, 300_000].map(|length| Bytes::from(vec![7; length])).into();
    let (mut writer, _reader) = dialled.open_bidi(FRAME_BYTES_MAX).await.unwrap();
    let send = async {
        for frame in &frames {
            writer.send(frame.clone()).await.unwrap();
        }
        writer.finish().await.unwrap();
        assert_eq!(writer.send(Bytes::new()).await, Err(FrameError::Finished));
        writer.delivered().await.unwrap();
    };
    let receive = async {
        let (_writer, mut reader) = accepted.accept_bidi(FRAME_BYTES_MAX).await.unwrap();
        for frame in &frames {
            assert_eq!(reader.next().await.unwrap().as_ref(), Some(frame));
        }
        assert_eq!(reader.next().await, Ok(None));
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn frame_larger_than_all_windows_arrives() {
    const LARGE: usize = 8 << 20;
    let (_ship, _port, dialled, accepted) = linked().await;
    let frame: Bytes = (0..LARGE).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let mut writer = dialled.open_uni(LARGE).await.unwrap();
    let send = async { writer.send(frame.clone()).await.unwrap() };
    let receive = async {
        let mut reader = accepted.accept_uni(LARGE).await.unwrap();
        reader.next().await.unwrap().unwrap()
    };
    let ((), received) = tokio::join!(send, receive);
    assert!(received == frame);
}

#[tokio::test]
async fn cancelled_reads_and_writes_lose_nothing() {
    const LARGE: usize = 4 << 20;
    let (_ship, _port, dialled, accepted) = linked().await;
    let frame = Bytes::from(vec![3; LARGE]);
    let mut writer = dialled.open_uni(LARGE).await.unwrap();
    let mut cancelled_writes = 0;
    let send = async {
        writer.queue(frame.clone()).unwrap();
        assert!(matches!(writer.queue(Bytes::new()), Err(FrameError::Backlog { .. })));
        loop {
            tokio::select! {
                biased;
                flushed = writer.flush() => break flushed.unwrap(),
                () = tokio::task::yield_now() => cancelled_writes += 1,
            }
        }
        writer.finish().await.unwrap();
    };
    let mut cancelled_reads = 0;
    let receive = async {
        let mut reader = accepted.accept_uni(LARGE).await.unwrap();
        let received = loop {
            tokio::select! {
                biased;
                received = reader.next() => break received.unwrap(),
                () = tokio::task::yield_now() => cancelled_reads += 1,
            }
        };
        assert_eq!(received, Some(frame.clone()));
        assert_eq!(reader.next().await, Ok(None));
    };
    tokio::join!(send, receive);
    assert!(cancelled_writes > 0 && cancelled_reads > 0);
}

async fn write_all(stream: &mut SendStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = stream.write(bytes).await.unwrap();
        bytes = &bytes[written..];
    }
}

/// What the reader says to `bytes` followed by the end of the stream.
async fn check_raw(bytes: &[u8], expected: Result<Option<Bytes>, FrameError>) {
    let (_ship, _port, dialled, accepted) = linked().await;
    let mut raw = dialled.carrier.open_uni().await.unwrap();
    write_all(&mut raw, bytes).await;
    raw.finish().unwrap();
    let mut reader = accepted.accept_uni(1000).await.unwrap();
    assert_eq!(reader.next().await, expected);
}

#[tokio::test]
async fn truncated_streams_are_noticed() {
    check_raw(&[], Ok(None)).await;
    check_raw(&[5, b'h', b'e', b'l', b'l', b'o'], Ok(Some(Bytes::from_static(b"hello")))).await;
    check_raw(&[5, b'h', b'e'], Err(FrameError::Truncated { bytes: 3 })).await;
    check_raw(&[0x85], Err(FrameError::Truncated { bytes: 1 })).await;
    check_raw(&[0x80, 0x80, 0x80, 0x80, 1], Err(FrameError::BadLength)).await;
}

/// What has come of a frame is there after the stream is lost, too.
#[tokio::test]
async fn a_part_of_a_frame_can_be_had_when_the_stream_is_lost() {
    let (_ship, _port, dialled, accepted) = linked().await;
    let mut raw = dialled.carrier.open_uni().await.unwrap();
    write_all(&mut raw, &[2, b'h', b'e', 3, b'l', b'l']).await;
    let mut reader = accepted.accept_uni(1_000).await.unwrap();
    assert_eq!(reader.next().await, Ok(Some(Bytes::from_static(b"he"))));
    while reader.begun() != Some((3, b"ll")) {
        assert_eq!(reader.step().await, Ok(Step::More));
    }
    dialled.close(CloseCode::DONE, "");
    assert!(matches!(reader.step().await, Err(FrameError::Connection(_))));
    assert_eq!(reader.begun(), Some((3, &b"ll"[..])));
}

#[tokio::test]
async fn frames_over_the_limit_are_refused_on_both_sides() {
    let at_limit = [&[0xe8, 7][..], &[0; 1000]].concat();
    check_raw(&at_limit, Ok(Some(Bytes::from(vec![0; 1000])))).await;
    let too_long = FrameError::TooLong { bytes: 1001, bytes_max: 1000 };
    check_raw(&[0xe9, 7, 0], Err(too_long.clone())).await;
    let (_ship, _port, dialled, _accepted) = linked().await;
    let mut writer = dialled.open_uni(1000).await.unwrap();
    assert_eq!(writer.send(Bytes::from(vec![0; 1001])).await, Err(too_long));
}

#[tokio::test]
async fn declared_length_allocates_nothing() {
    let (_ship, _port, dialled, accepted) = linked().await;
    let mut raw = dialled.carrier.open_uni().await.unwrap();
    // 256 MiB less one byte declared, three bytes sent.
    write_all(&mut raw, &[0xff, 0xff, 0xff, 0x7f, 1, 2, 3]).await;
    raw.finish().unwrap();
    let mut reader = accepted.accept_uni(FRAME_BYTES_LIMIT).await.unwrap();
    assert_eq!(reader.next().await, Err(FrameError::Truncated { bytes: 7 }));
    assert!(reader.capacity() < 1024, "{}", reader.capacity());
}

#[tokio::test]
async fn dropped_writer_is_not_mistaken_for_a_finished_one() {
    let (_ship, _port, dialled, accepted) = linked().await;
    let mut writer = dialled.open_uni(FRAME_BYTES_MAX).await.unwrap();
    writer.send(Bytes::from_static(b"first")).await.unwrap();
    let mut reader = accepted.accept_uni(FRAME_BYTES_MAX).await.unwrap();
    assert_eq!(reader.next().await, Ok(Some(Bytes::from_static(b"first"))));
    drop(writer);
    assert_eq!(reader.next().await, Err(FrameError::Reset(StreamCode::ABANDONED)));
}

#[tokio::test]
async fn stopped_reader_is_seen_by_the_writer() {
    let (_ship, _port, dialled, accepted) = linked().await;
    let mut writer = dialled.open_uni(FRAME_BYTES_MAX).await.unwrap();
    writer.send(Bytes::from_static(b"first")).await.unwrap();
    let mut reader = accepted.accept_uni(FRAME_BYTES_MAX).await.unwrap();
    reader.stop(StreamCode(17));
    assert_eq!(writer.delivered().await, Err(FrameError::Stopped(StreamCode(17))));
    assert_eq!(
        writer.send(Bytes::from_static(b"second")).await,
        Err(FrameError::Stopped(StreamCode(17)))
    );
}
