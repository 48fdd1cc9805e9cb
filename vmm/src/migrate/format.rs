//! The wire format of a live migration, version 1. All integers are little-endian.
//!
//! The source opens with a preface, then both sides speak in messages:
//!
//! ```text
//! preface, source only      0               8       12      16
//!                           +---------------+-------+-------+
//!                           | "RASVMMIG"    |version| crc   |    crc: CRC32C of bytes 0..12
//!                           +---------------+-------+-------+
//!
//! message                   0       4       8       12      16      16+length
//!                           +-------+-------+-------+-------+-------+ - - - - - - -+
//!                           | kind  |length | body  |header | body  | page payload |
//!                           |       |       | crc   | crc   |       | (Pages only) |
//!                           +-------+-------+-------+-------+-------+ - - - - - - -+
//!                           body crc: CRC32C of the body; header crc: CRC32C of bytes 0..12
//!
//! run (Pages, Zero, Poison) 63                     16 15     0
//!                           +------------------------+--------+
//!                           | guest page number      |count-1 |    1 to 65,536 pages in a row
//!                           +------------------------+--------+
//! ```
//!
//! | kind | from | body |
//! |---|---|---|
//! | 1 `Hello` | source | what is sent: see [`Hello`] |
//! | 2 `Accept` | destination | empty: name and memory layout match |
//! | 3 `Pages` | source | runs, at most [`BATCH_PAGES_MAX`] pages in all; then those pages, in order |
//! | 4 `Zero` | source | runs of pages that are all zero |
//! | 5 `Poison` | source | runs of pages whose contents are lost |
//! | 6 `Sync` | source | round number, u32 |
//! | 7 `Synced` | destination | the same number, once everything before it is in memory |
//! | 8 `State` | source | the next piece of the state blob |
//! | 9 `End` | source | length of the whole state blob, u64; its CRC32C, u32 |
//! | 10 `Loaded` | destination | empty: memory and state are in place, ready to run |
//! | 11 `Go` | source | empty: the source will never run again |
//! | 12 `Running` | destination | empty: the guest runs here |
//! | 13 `Failed` | both | why, UTF-8: the sender gives up; its guest does not run here |
//!
//! The latest word on a page counts: `Pages` or `Zero` after `Poison` lift the mark. A page that turns
//! bad while its batch is on the way is filled up with zeroes, and a `Poison` run follows.
//!
//! Checksums guard everything that is interpreted. Page contents carry none: making one would mean
//! reading guest memory in userspace, and the transports are reliable streams. A flipped bit in the
//! payload is as (un)likely as anywhere else between the two kernels.
//!
//! Decoding never panics and holds at most [`BODY_MAX`] bytes at a time, whatever arrives.

use ras_core::{Gpa, PAGE_SHIFT, PAGE_SIZE};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::memory::mapping::{GuestRam, RegionKind};

/// First bytes of every migration stream.
pub const MAGIC: [u8; 8] = *b"RASVMMIG";

/// The version this program speaks. There is no negotiation: both ends run the same release.
pub const VERSION: u32 = 1;

/// Pages in one `Pages` message: 1 MiB, small enough to stay in the receiver's cache.
pub const BATCH_PAGES_MAX: usize = 256;

/// Bytes in a message's body: 64 KiB. The longest are pieces of state, and 8,192 runs.
pub const BODY_MAX: usize = 64 * 1024;

/// Bytes in a state blob: 64 MiB, far beyond what a VM with a handful of devices needs.
pub const STATE_MAX: u64 = 64 << 20;

/// Regions in a `Hello`.
pub const REGIONS_MAX: usize = 512;

/// Bytes of a VM's name in a `Hello`. It appears in messages and logs.
pub const NAME_MAX: usize = 255;

/// Runs in one `Zero` or `Poison` message.
pub const RUNS_MAX: usize = BODY_MAX / size_of::<U64>();

/// What is wrong with bytes from the peer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The stream does not begin as a migration does.
    #[error("not a rasvmm migration stream")]
    Magic,
    /// The other end speaks another version.
    #[error("the stream has version {0}, this program speaks {VERSION}")]
    Version(u32),
    /// Bytes changed on the way.
    #[error("the checksum of the {0} does not match")]
    Checksum(&'static str),
    /// A message this version does not have.
    #[error("unknown message kind {0}")]
    Kind(u32),
    /// A message or a sum of messages that is larger than the format allows.
    #[error("{what} of {value} is over the limit of {max}")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Its size.
        value: u64,
        /// The most there may be.
        max: u64,
    },
    /// A body that does not have its kind's form.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// What a message is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
#[allow(missing_docs, reason = "the table at the top of this module says what each means")]
pub enum Kind {
    Hello = 1,
    Accept = 2,
    Pages = 3,
    Zero = 4,
    Poison = 5,
    Sync = 6,
    Synced = 7,
    State = 8,
    End = 9,
    Loaded = 10,
    Go = 11,
    Running = 12,
    Failed = 13,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Hello,
        Self::Accept,
        Self::Pages,
        Self::Zero,
        Self::Poison,
        Self::Sync,
        Self::Synced,
        Self::State,
        Self::End,
        Self::Loaded,
        Self::Go,
        Self::Running,
        Self::Failed,
    ];

    fn from_wire(value: u32) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == value).ok_or(FormatError::Kind(value))
    }
}

/// The first 16 bytes from the source.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Preface {
    magic: [u8; 8],
    version: U32,
    crc: U32,
}
const _: () = assert!(size_of::<Preface>() == 16);

impl Preface {
    /// This program's.
    #[must_use]
    pub fn ours() -> Self {
        let mut preface = Self { magic: MAGIC, version: VERSION.into(), crc: 0.into() };
        preface.crc = crc32c::crc32c(&preface.as_bytes()[..12]).into();
        preface
    }

    /// Checks that the peer's preface is of a kind with ours. The magic is judged first, so that a
    /// stranger is called one.
    ///
    /// # Errors
    /// [`FormatError::Magic`], [`FormatError::Checksum`], [`FormatError::Version`].
    pub fn check(&self) -> Result<(), FormatError> {
        if self.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if self.crc.get() != crc32c::crc32c(&self.as_bytes()[..12]) {
            return Err(FormatError::Checksum("preface"));
        }
        match self.version.get() {
            VERSION => Ok(()),
            other => Err(FormatError::Version(other)),
        }
    }
}

/// The 16 bytes before each message's body.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    kind: U32,
    length: U32,
    body_crc: U32,
    header_crc: U32,
}
const _: () = assert!(size_of::<Header>() == 16);

impl Header {
    /// The header for `body`.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`].
    pub fn new(kind: Kind, body: &[u8]) -> Result<Self, FormatError> {
        let mut header = Self {
            kind: (kind as u32).into(),
            length: body_length(body.len() as u64)?.into(),
            body_crc: crc32c::crc32c(body).into(),
            header_crc: 0.into(),
        };
        header.header_crc = crc32c::crc32c(&header.as_bytes()[..12]).into();
        Ok(header)
    }

    /// Kind and length of the body that follows, once the header is known to be whole.
    ///
    /// # Errors
    /// [`FormatError::Checksum`], [`FormatError::Kind`], [`FormatError::TooLarge`].
    pub fn check(&self) -> Result<(Kind, usize), FormatError> {
        if self.header_crc.get() != crc32c::crc32c(&self.as_bytes()[..12]) {
            return Err(FormatError::Checksum("message header"));
        }
        let length = body_length(self.length.get().into())?;
        Ok((Kind::from_wire(self.kind.get())?, length as usize))
    }

    /// Checks the body against the header.
    ///
    /// # Errors
    /// [`FormatError::Checksum`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), FormatError> {
        if self.body_crc.get() == crc32c::crc32c(body) {
            Ok(())
        } else {
            Err(FormatError::Checksum("message body"))
        }
    }
}

fn body_length(length: u64) -> Result<u32, FormatError> {
    let max = BODY_MAX as u64;
    let too_large = FormatError::TooLarge { what: "message body", value: length, max };
    u32::try_from(length).ok().filter(|_| length <= max).ok_or(too_large)
}

/// Guest pages in a row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Run {
    /// First byte, 4 KiB aligned.
    pub gpa: Gpa,
    /// Number of pages, 1 to 65,536.
    pub pages: u32,
}

impl Run {
    /// Most pages in a run.
    pub const PAGES_MAX: u32 = 1 << 16;

    /// Length in bytes.
    #[must_use]
    pub const fn byte_len(self) -> u64 {
        self.pages as u64 * PAGE_SIZE
    }

    fn to_wire(self) -> U64 {
        ((self.gpa.0 >> PAGE_SHIFT) << 16 | u64::from(self.pages.saturating_sub(1) & 0xffff)).into()
    }

    fn from_wire(value: U64) -> Result<Self, FormatError> {
        let value = value.get();
        let gpa = (value >> 16).checked_mul(PAGE_SIZE).map(Gpa);
        let pages = u32::from(u16::try_from(value & 0xffff).unwrap_or(u16::MAX)) + 1;
        gpa.map(|gpa| Self { gpa, pages }).ok_or(FormatError::Malformed("run"))
    }

    /// Collects single pages, given in any order, into runs.
    pub fn collect(pages: impl IntoIterator<Item = Gpa>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for gpa in pages {
            match runs.last_mut() {
                Some(run) if run.gpa.0 + run.byte_len() == gpa.0 && run.pages < Self::PAGES_MAX => {
                    run.pages += 1;
                }
                _ => runs.push(Self { gpa, pages: 1 }),
            }
        }
        runs
    }

    /// The pages, ascending.
    pub fn iter(self) -> impl Iterator<Item = Gpa> {
        (0..u64::from(self.pages)).map(move |page| Gpa(self.gpa.0 + page * PAGE_SIZE))
    }
}

/// The body of `Pages`, `Zero` and `Poison`.
#[must_use]
pub fn encode_runs(runs: &[Run]) -> Vec<u8> {
    runs.iter().flat_map(|run| run.to_wire().to_bytes()).collect()
}

/// The runs in a body.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn decode_runs(body: &[u8]) -> Result<Vec<Run>, FormatError> {
    let words =
        <[U64]>::ref_from_bytes(body).map_err(|_| FormatError::Malformed("list of runs"))?;
    words.iter().map(|word| Run::from_wire(*word)).collect()
}

/// The runs of a `Pages` message: [`decode_runs`], and few enough pages.
///
/// # Errors
/// [`FormatError::Malformed`], [`FormatError::TooLarge`].
pub fn decode_batch(body: &[u8]) -> Result<Vec<Run>, FormatError> {
    let runs = decode_runs(body)?;
    let pages = runs.iter().map(|run| u64::from(run.pages)).sum::<u64>();
    let max = BATCH_PAGES_MAX as u64;
    if pages > max {
        return Err(FormatError::TooLarge { what: "page batch", value: pages, max });
    }
    Ok(runs)
}

/// What the source is about to send; the destination compares it with itself.
///
/// ```text
/// 0        2            4      4+n                     each region: 0     8      16     20
/// +--------+------------+------+---------+---------+                +-----+------+------+
/// | name n | regions m  | name | region 0| ...     |                | gpa | size | kind |
/// +--------+------------+------+---------+---------+                +-----+------+------+
///                              kind: 0 RAM, 1 virtio-mem
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The VM's name.
    pub name: String,
    /// Its memory: first byte, length in bytes, kind. Ascending.
    pub regions: Vec<(Gpa, u64, RegionKind)>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireHello {
    name_length: U16,
    regions: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireRegion {
    gpa: U64,
    size: U64,
    kind: U32,
}
const _: () = assert!(size_of::<WireRegion>() == 20);

impl Hello {
    /// The `Hello` of a VM.
    #[must_use]
    pub fn of(name: &str, ram: &GuestRam) -> Self {
        let region =
            |region: &crate::memory::mapping::Region| (region.gpa(), region.size(), region.kind());
        Self { name: name.to_owned(), regions: ram.regions().iter().map(region).collect() }
    }

    /// The body.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] for a name over 255 bytes or over [`REGIONS_MAX`] regions.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let head = WireHello {
            name_length: within("VM name", self.name.len(), NAME_MAX)?.into(),
            regions: within("number of regions", self.regions.len(), REGIONS_MAX)?.into(),
        };
        let mut body = head.as_bytes().to_vec();
        body.extend_from_slice(self.name.as_bytes());
        for (gpa, size, kind) in &self.regions {
            let kind = match kind {
                RegionKind::Ram => 0,
                RegionKind::VirtioMem => 1,
            };
            let region = WireRegion { gpa: gpa.0.into(), size: (*size).into(), kind: kind.into() };
            body.extend_from_slice(region.as_bytes());
        }
        Ok(body)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`FormatError::Malformed`]; [`FormatError::TooLarge`] as in [`Self::encode`].
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        const SHAPE: FormatError = FormatError::Malformed("Hello");
        let (head, rest) = WireHello::ref_from_prefix(body).map_err(|_| SHAPE)?;
        within("VM name", head.name_length.get().into(), NAME_MAX)?;
        within("number of regions", head.regions.get().into(), REGIONS_MAX)?;
        let (name, rest) = rest.split_at_checked(head.name_length.get().into()).ok_or(SHAPE)?;
        let regions = <[WireRegion]>::ref_from_bytes(rest).map_err(|_| SHAPE)?;
        if regions.len() != usize::from(head.regions.get()) {
            return Err(SHAPE);
        }
        let region = |region: &WireRegion| {
            let kind = match region.kind.get() {
                0 => RegionKind::Ram,
                1 => RegionKind::VirtioMem,
                _ => return Err(SHAPE),
            };
            Ok((Gpa(region.gpa.get()), region.size.get(), kind))
        };
        Ok(Self {
            name: str::from_utf8(name).map_err(|_| SHAPE)?.to_owned(),
            regions: regions.iter().map(region).collect::<Result<_, _>>()?,
        })
    }
}

fn within(what: &'static str, length: usize, max: usize) -> Result<u16, FormatError> {
    let too_large = FormatError::TooLarge { what, value: length as u64, max: max as u64 };
    u16::try_from(length).ok().filter(|_| length <= max).ok_or(too_large)
}

/// The body of `End`: what the destination checks before it loads the state.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct End {
    /// Length of the state blob in bytes.
    pub state_length: U64,
    /// CRC32C of the state blob: pieces in the wrong order or number don't pass.
    pub state_crc: U32,
}
const _: () = assert!(size_of::<End>() == 12);

impl End {
    /// For this blob.
    #[must_use]
    pub fn of(state: &[u8]) -> Self {
        Self { state_length: (state.len() as u64).into(), state_crc: crc32c::crc32c(state).into() }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`FormatError::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        Self::read_from_bytes(body).map_err(|_| FormatError::Malformed("End"))
    }
}

/// The number in `Sync` and `Synced`.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn decode_sync(body: &[u8]) -> Result<u32, FormatError> {
    U32::read_from_bytes(body).map(U32::get).map_err(|_| FormatError::Malformed("Sync"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hello_survives_the_wire() {
        let hello = Hello {
            name: "vm1 \u{fc}".to_owned(),
            regions: vec![
                (Gpa(0), 64 << 20, RegionKind::Ram),
                (Gpa(1 << 32), 256 << 20, RegionKind::VirtioMem),
            ],
        };
        let body = hello.encode().unwrap();
        assert_eq!(Hello::decode(&body), Ok(hello));
        for length in 0..body.len() {
            assert!(Hello::decode(&body[..length]).is_err(), "cut at {length}");
        }
        let long = [&[0, 1, 0, 0][..], &[b'x'; 256]].concat();
        let too_large = Hello::decode(&long).expect_err("what nobody may write nobody has to read");
        assert!(matches!(too_large, FormatError::TooLarge { what: "VM name", .. }), "{too_large}");
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let header = Header::new(Kind::Sync, &[1, 2, 3, 4]).unwrap();
        assert_eq!(header.check(), Ok((Kind::Sync, 4)));
        for bit in 0..128 {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(header.as_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read_from_bytes(&bytes).unwrap().check().is_err(), "bit {bit}");
        }
        assert!(header.check_body(&[1, 2, 3, 5]).is_err());
    }

    #[test]
    fn a_preface_tells_strangers_from_other_versions() {
        let bytes = |version: u32| {
            let mut preface = Preface { magic: MAGIC, version: version.into(), crc: 0.into() };
            preface.crc = crc32c::crc32c(&preface.as_bytes()[..12]).into();
            preface
        };
        assert_eq!(Preface::ours().check(), Ok(()));
        assert_eq!(bytes(2).check(), Err(FormatError::Version(2)));
        let stranger = Preface::read_from_bytes(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(stranger.check(), Err(FormatError::Magic));
        let mut damaged = Preface::ours();
        damaged.version = 3.into();
        assert_eq!(damaged.check(), Err(FormatError::Checksum("preface")));
    }

    #[test]
    fn limits_hold() {
        assert!(Header::new(Kind::State, &[0; BODY_MAX]).is_ok());
        assert!(Header::new(Kind::State, &[0; BODY_MAX + 1]).is_err());
        let run = |pages| encode_runs(&[Run { gpa: Gpa(0), pages }]);
        assert!(decode_batch(&run(256)).is_ok());
        assert!(decode_batch(&run(257)).is_err());
        assert!(decode_batch(&[0; 257 * 8]).is_err(), "257 runs of one page");
        assert!(decode_runs(&[0; 9]).is_err());
    }

    proptest! {
        #[test]
        fn runs_survive_the_wire(page in 0_u64..1 << 40, pages in 1_u32..=Run::PAGES_MAX) {
            let run = Run { gpa: Gpa(page * PAGE_SIZE), pages };
            prop_assert_eq!(decode_runs(&encode_runs(&[run])), Ok(vec![run]));
        }

        #[test]
        fn any_bytes_decode_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&body);
            let _ = decode_batch(&body);
            let _ = End::decode(&body);
            let _ = decode_sync(&body);
            if let Ok((header, _)) = Header::read_from_prefix(&body) {
                let _ = header.check();
            }
            if let Ok((preface, _)) = Preface::read_from_prefix(&body) {
                let _ = preface.check();
            }
        }
    }
}
