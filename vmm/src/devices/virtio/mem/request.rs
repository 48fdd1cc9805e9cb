//! Requests and responses as bytes. VIRTIO 1.2, section 5.15.6 "Device Operation".

use ras_core::Gpa;

/// Bytes of a request, `struct virtio_mem_req`.
pub const REQUEST_SIZE: usize = 24;

/// Bytes of a response, `struct virtio_mem_resp`.
pub const RESPONSE_SIZE: usize = 10;

/// What a driver asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Plug `blocks` blocks from `gpa`.
    Plug(Range),
    /// Unplug them.
    Unplug(Range),
    /// Unplug everything.
    UnplugAll,
    /// Tell whether they are plugged.
    State(Range),
    /// A type this device does not know.
    Unknown(u16),
}

/// The blocks a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte.
    pub gpa: Gpa,
    /// Number of blocks.
    pub blocks: u16,
}

/// What the device answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Response {
    /// Done.
    Ack,
    /// Not now, and not by the driver's fault: more than was requested, or a bad block.
    Nack,
    /// Try again later.
    Busy,
    /// The request breaks a rule.
    Error,
    /// Done: how the blocks are.
    State(State),
}

/// How some blocks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// All plugged.
    Plugged,
    /// All unplugged.
    Unplugged,
    /// Some of each.
    Mixed,
}

impl Request {
    /// Reads a request.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; REQUEST_SIZE]) -> Self {
        let [t0, t1, _, _, _, _, _, _, a0, a1, a2, a3, a4, a5, a6, a7, n0, n1, ..] = *bytes;
        let range = Range {
            gpa: Gpa(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            blocks: u16::from_le_bytes([n0, n1]),
        };
        match u16::from_le_bytes([t0, t1]) {
            0 => Self::Plug(range),
            1 => Self::Unplug(range),
            2 => Self::UnplugAll,
            3 => Self::State(range),
            other => Self::Unknown(other),
        }
    }
}

impl Response {
    /// The response as the driver reads it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; RESPONSE_SIZE] {
        let (kind, state): (u8, u8) = match self {
            Self::Ack => (0, 0),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
            Self::State(State::Plugged) => (0, 0),
            Self::State(State::Unplugged) => (0, 1),
            Self::State(State::Mixed) => (0, 2),
        };
        [kind, 0, 0, 0, 0, 0, 0, 0, state, 0]
    }
}
