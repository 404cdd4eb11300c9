//! From the first byte to the server's "ready": startup packet and authentication.

use std::collections::BTreeMap;

use crate::postgres::connect::{ConnectError, PgSettings};
use crate::postgres::sql::TEXT_SETTINGS;
use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite};

use super::socket::WalSocket;
use super::wire::{Fields, Packet, Wire, WireError};
use super::{LOGIN_MESSAGE_BYTES_MAX, end_of_file, server_error};

/// The server chooses how long hashing the password takes (4096 rounds by default). This many
/// take about a second.
const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;
/// PostgreSQL reports about fifteen.
const PARAMETERS_MAX: usize = 100;

const AUTH_OK: i32 = 0;
const AUTH_CLEARTEXT: i32 = 3;
const AUTH_MD5: i32 = 5;
const AUTH_SASL: i32 = 10;
const AUTH_SASL_CONTINUE: i32 = 11;
const AUTH_SASL_FINAL: i32 = 12;

pub(super) async fn login(
    settings: &PgSettings,
    application_name: &str,
) -> Result<(Wire<WalSocket>, BTreeMap<String, String>), ConnectError> {
    let startup = startup_packet(settings, application_name)?;
    let socket = WalSocket::connect(settings).await?;
    let wire = Wire::new(socket, LOGIN_MESSAGE_BYTES_MAX);
    let mut login = Login { settings, wire };
    login.send(&startup).await?;
    login.authenticate().await?;
    let parameters = login.parameters().await?;
    Ok((login.wire, parameters))
}

fn startup_packet(settings: &PgSettings, application_name: &str) -> Result<BytesMut, ConnectError> {
    let options = settings.startup_options(&TEXT_SETTINGS)?;
    let parameters = [
        ("user", settings.user()),
        ("database", settings.dbname()),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", application_name),
        ("options", &options),
    ];
    let mut packet = BytesMut::new();
    frontend::startup_message(parameters, &mut packet)
        .map_err(|e| settings.failed(&e.to_string()))?;
    Ok(packet)
}

struct Login<'a, S> {
    settings: &'a PgSettings,
    wire: Wire<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Login<'_, S> {
    /// Strict about the order: a server that skips proving itself is not the one that knows the
    /// password.
    async fn authenticate(&mut self) -> Result<(), ConnectError> {
        let (method, mut fields) = self.auth_request().await?;
        match method {
            AUTH_OK => return Ok(()),
            AUTH_CLEARTEXT => {
                let password = self.password()?.to_owned();
                self.send_composed(|out| frontend::password_message(&password, out)).await?;
            }
            AUTH_MD5 => {
                let salt = fields.bytes(4).map_err(|e| self.error(e))?;
                let salt = [salt[0], salt[1], salt[2], salt[3]];
                let hash = md5_hash(self.settings.user().as_bytes(), self.password()?, salt);
                self.send_composed(|out| frontend::password_message(hash.as_bytes(), out)).await?;
            }
            AUTH_SASL => self.scram(fields).await?,
            other => {
                let reason = format!("authentication method {other} is not supported");
                return Err(self.settings.failed(&reason));
            }
        }
        self.expect_auth(AUTH_OK).await?;
        Ok(())
    }

    async fn scram(&mut self, mut mechanisms: Fields) -> Result<(), ConnectError> {
        let mut offered = false;
        while let Some(name) = mechanisms.text().map_err(|e| self.error(e))? {
            offered |= name == sasl::SCRAM_SHA_256;
        }
        if !offered {
            return Err(self.settings.failed("the server offers no SCRAM-SHA-256"));
        }
        // Binding to the TLS channel is left to a verified certificate.
        let binding = sasl::ChannelBinding::unsupported();
        let mut scram = sasl::ScramSha256::new(self.password()?, binding);
        let first = scram.message().to_vec();
        self.send_composed(|out| frontend::sasl_initial_response(sasl::SCRAM_SHA_256, &first, out))
            .await?;
        let challenge = self.expect_auth(AUTH_SASL_CONTINUE).await?.rest();
        if !iterations_are_bearable(&challenge) {
            return Err(self.settings.failed("the server's SCRAM iteration count is absurd"));
        }
        let failed = |e: std::io::Error| self.settings.failed(&e.to_string());
        scram.update(&challenge).map_err(failed)?;
        let response = scram.message().to_vec();
        self.send_composed(|out| frontend::sasl_response(&response, out)).await?;
        let proof = self.expect_auth(AUTH_SASL_FINAL).await?.rest();
        scram.finish(&proof).map_err(|e| self.settings.failed(&e.to_string()))
    }

    fn password(&self) -> Result<&[u8], ConnectError> {
        self.settings.password().ok_or_else(|| ConnectError::PasswordMissing {
            address: self.settings.address().clone(),
            user: self.settings.user().to_owned(),
        })
    }

    async fn auth_request(&mut self) -> Result<(i32, Fields), ConnectError> {
        let packet = self.packet().await?;
        if packet.tag != b'R' {
            return Err(self.out_of_place(packet.tag));
        }
        let mut fields = Fields::of("authentication", packet.body);
        let method = fields.i32().map_err(|e| self.error(e))?;
        Ok((method, fields))
    }

    async fn expect_auth(&mut self, wanted: i32) -> Result<Fields, ConnectError> {
        let (method, fields) = self.auth_request().await?;
        if method != wanted {
            let reason = format!("authentication step {method} instead of {wanted}");
            return Err(self.settings.failed(&reason));
        }
        Ok(fields)
    }

    async fn parameters(&mut self) -> Result<BTreeMap<String, String>, ConnectError> {
        let mut parameters = BTreeMap::new();
        loop {
            let packet = self.packet().await?;
            match packet.tag {
                b'S' if parameters.len() < PARAMETERS_MAX => {
                    let (name, value) = parameter(packet.body).map_err(|e| self.error(e))?;
                    parameters.insert(name, value);
                }
                // The key to cancel with is of no use on a replication connection.
                b'K' => {}
                b'Z' => return Ok(parameters),
                tag => return Err(self.out_of_place(tag)),
            }
        }
    }

    /// The next message that is not a notice; the server's refusal is an error.
    async fn packet(&mut self) -> Result<Packet, ConnectError> {
        loop {
            let packet = match self.wire.packet().await {
                Ok(Some(packet)) => packet,
                Ok(None) => return Err(self.error(end_of_file())),
                Err(e) => return Err(self.error(e)),
            };
            match packet.tag {
                b'E' => return Err(self.error(server_error(packet.body))),
                b'N' => {}
                _ => return Ok(packet),
            }
        }
    }

    async fn send_composed(
        &mut self,
        compose: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), ConnectError> {
        let mut message = BytesMut::new();
        compose(&mut message).map_err(|e| self.settings.failed(&e.to_string()))?;
        self.send(&message).await
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), ConnectError> {
        self.wire.queue(|out| out.extend_from_slice(message));
        match self.wire.send().await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.error(e)),
        }
    }

    fn out_of_place(&self, tag: u8) -> ConnectError {
        self.settings.failed(&format!("message {:?} is out of place", char::from(tag)))
    }

    fn error(&self, error: WireError) -> ConnectError {
        match error {
            WireError::Io(e) => self.settings.unreachable(&e),
            WireError::Protocol(what) => self.settings.failed(&what),
            WireError::Server(e) => self.settings.refused(&e.sqlstate, &e.message),
            WireError::Scratch(e) => self.settings.failed(&e.to_string()),
        }
    }
}

/// A login at which the server says all of this.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) async fn check<S: AsyncRead + AsyncWrite + Unpin>(settings: &PgSettings, server: S) {
    let mut login = Login { settings, wire: Wire::new(server, LOGIN_MESSAGE_BYTES_MAX) };
    if login.authenticate().await.is_ok()
        && let Ok(parameters) = login.parameters().await
    {
        assert!(parameters.len() <= PARAMETERS_MAX, "more parameters than allowed");
    }
}

fn parameter(body: Bytes) -> Result<(String, String), WireError> {
    let mut fields = Fields::of("parameter", body);
    Ok((fields.text()?.unwrap_or_default(), fields.text()?.unwrap_or_default()))
}

/// `r=…,s=…,i=4096`; what is no number at all is left for the SCRAM code to refuse.
fn iterations_are_bearable(challenge: &[u8]) -> bool {
    let iterations = challenge.split(|b| *b == b',').find_map(|part| part.strip_prefix(b"i="));
    let iterations = iterations.and_then(|digits| str::from_utf8(digits).ok()?.parse::<u32>().ok());
    iterations.is_none_or(|count| count <= SCRAM_ITERATIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_iteration_counts_are_refused() {
        assert!(iterations_are_bearable(b"r=abc,s=def,i=4096"));
        assert!(!iterations_are_bearable(b"r=abc,s=def,i=4294967295"));
        assert!(iterations_are_bearable(b"r=abc"));
    }
}
