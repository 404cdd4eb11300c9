//! A server that says anything; see `crate::fuzz`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::{Fields, Packet, Wire};
use super::{Frame, data_row, login, read_server_error, stream, timeline_switch};
use crate::capture::long::{Condenser, LongTexts};
use crate::capture::pgoutput::decode_with;
use crate::capture::scratch::thread_dir;
use crate::postgres::connect::PgSettings;

const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Inputs are blown up to at most this much, so that some hold texts that are put aside.
const BLOWN_UP_BYTES_MAX: usize = 2 << 20;
/// Stands for [`FILL_BYTES`] of text.
const FILL: u8 = 0xf0;
const FILL_BYTES: usize = 64 << 10;

/// Says what it was given, so much at a time, and takes everything.
struct Server<'a> {
    rest: &'a [u8],
    chunk: usize,
}

impl AsyncRead for Server<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.rest.len().min(self.chunk).min(buf.remaining());
        let (chunk, rest) = self.rest.split_at(length);
        buf.put_slice(chunk);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The first byte says in which chunks the rest arrives; some bytes stand for long texts.
fn server_of(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (chunk, rest) = bytes.split_first()?;
    let mut said = Vec::with_capacity(rest.len());
    for byte in rest {
        if *byte == FILL && said.len() + FILL_BYTES < BLOWN_UP_BYTES_MAX {
            said.resize(said.len() + FILL_BYTES, b'x');
        } else {
            said.push(*byte);
        }
    }
    Some(([1, 3, 700, 1 << 20][usize::from(chunk % 4)], said))
}

/// A stream of packets, and the whole as one long message.
pub(crate) fn check_packets(bytes: &[u8]) {
    let Some((chunk, said)) = server_of(bytes) else { return };
    // Long texts in chunks of a byte take too long to be worth it.
    let chunk = if said.len() > bytes.len() { chunk.max(700) } else { chunk };
    let texts = Arc::new(LongTexts::new(thread_dir()));
    let mut wire = Wire::new(Server { rest: &said, chunk }, MESSAGE_BYTES_MAX);
    wire.put_aside(Arc::clone(&texts));
    // The server is always ready, so waiting is over at once.
    while let Some(Ok(Some(packet))) = wire.packet().now_or_never() {
        check_packet(packet);
    }
    check_condenser(&said, chunk, &texts);
}

fn check_packet(Packet { tag, body, texts }: Packet) {
    match tag {
        b'd' => {
            if let Ok(Frame::XLogData { data, texts, .. }) = stream::copy_frame(body, texts)
                && let Ok(message) = decode_with(&data, texts)
            {
                let _ = format!("{message:?}");
            }
        }
        b'E' | b'N' => drop(read_server_error(body)),
        _ => {
            if let Ok(row) = data_row(body.clone()) {
                for text in (0..3).filter_map(|column| row.get(column)) {
                    let _ = timeline_switch(text);
                }
            }
            let mut fields = Fields::of("any", body);
            while let Ok(Some(_)) = fields.text() {}
        }
    }
}

/// It comes to an end, never makes more of a message, and passes on whatever is no long text.
fn check_condenser(message: &[u8], chunk: usize, texts: &LongTexts) {
    if message.is_empty() {
        return;
    }
    let mut condenser = Condenser::new(message.len());
    let mut incoming = BytesMut::new();
    let mut done = None;
    for bytes in message.chunks(chunk) {
        assert!(done.is_none(), "done too early");
        incoming.extend_from_slice(bytes);
        done = condenser.feed(&mut incoming, texts).expect("the scratch file takes it");
    }
    let body = done.expect("all of the message was told").body;
    assert!(incoming.is_empty());
    assert!(body.len() < message.len() || body == message, "something else was passed on");
}

/// A login with a password, after which the server says all of this.
pub(crate) fn check_login(bytes: &[u8]) {
    let Some((chunk, said)) = bytes.split_first() else { return };
    let settings = "host=localhost user=landfall password=secret dbname=shop";
    let settings = PgSettings::parse(settings, None).expect("the settings are right");
    let server = Server { rest: said, chunk: usize::from(*chunk) + 1 };
    let done = login::check(&settings, server).now_or_never();
    assert!(done.is_some(), "the login waits for a server that has said all");
}

fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// Streams of packets around these messages.
pub(crate) fn packet_seeds(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let head = [&b"w"[..], &[0; 24]].concat();
    let data = |message: &Vec<u8>| packet(b'd', &[&head[..], message].concat());
    let keepalive = packet(b'd', &[&b"k"[..], &[0; 17]].concat());
    let error = packet(b'E', b"SERROR\0VERROR\0C42P01\0Mgone\0Hlook\0\0");
    let row = packet(b'D', b"\0\x03\0\0\0\x033\t1\xff\xff\xff\xff\0\0\0\x0816/B3740");
    let stream: Vec<u8> =
        messages.iter().filter(|m| m.len() < 200).take(9).flat_map(data).collect();
    // Two columns, the second one of so many bytes as the fill stands for.
    let long = |lead: &[u8], fills: u32| {
        let length = (fills * FILL_BYTES as u32).to_be_bytes();
        let fill = vec![FILL; fills as usize];
        [&head[..], lead, b"\0\0\0\x07N\0\x02nt", &length, &fill].concat()
    };
    let packed = long(b"I", 5);
    let said = (packed.len() - 5 + 5 * FILL_BYTES) as u32 + 4;
    vec![
        [&[2][..], &stream, &keepalive].concat(),
        [&[1][..], &row, &error, &packet(b'C', b"COPY 0\0")].concat(),
        [&[3][..], &packed].concat(),
        [&[3][..], b"d", &said.to_be_bytes(), &packed, &keepalive].concat(),
        [&[2][..], &long(b"M", 6)].concat(),
    ]
}

/// What a server says at a login.
pub(crate) fn login_seeds() -> Vec<Vec<u8>> {
    let auth = |method: u32, rest: &[u8]| packet(b'R', &[&method.to_be_bytes()[..], rest].concat());
    let ready =
        [packet(b'S', b"server_version\x0015.1\0"), packet(b'K', &[0; 8]), packet(b'Z', b"I")];
    let ready = ready.concat();
    let challenge = auth(11, b"r=abc,s=c2FsdA==,i=4096");
    vec![
        [&[9][..], &auth(0, b""), &ready].concat(),
        [&[9][..], &auth(3, b""), &auth(0, b""), &ready].concat(),
        [&[0][..], &auth(5, b"salt"), &auth(0, b""), &ready].concat(),
        [&[99][..], &auth(10, b"SCRAM-SHA-256\0\0"), &challenge, &auth(12, b"v=YQ==")].concat(),
        [&[1][..], &packet(b'E', b"SFATAL\0C28P01\0Mno\0\0")].concat(),
    ]
}
