//! MCACOD, the architectural error code: bits 15:0 of the status register.
//!
//! SDM vol. 3B, "Interpreting the MCA Error Codes", tables of simple and compound codes; AMD uses a
//! subset of the same encodings (APM vol. 2, "Error Codes").

use core::fmt;

use ras_core::ErrorClass;

/// A decoded architectural error code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// 0: no error has been reported to this bank.
    NoError,
    /// 1: not classified into the MCA error classes.
    Unclassified,
    /// 2: parity error in the internal microcode ROM.
    MicrocodeRomParity,
    /// 3: the BINIT# of another processor caused this one to enter machine check.
    External,
    /// 4: functional redundancy check, master and slave disagree.
    Frc,
    /// 5: internal parity error.
    InternalParity,
    /// 6: the SMM handler tried to execute outside of its range registers.
    SmmHandlerCodeAccess,
    /// 0x400: internal timer error.
    InternalTimer,
    /// 0xe0b: generic I/O error.
    Io,
    /// `0000 01xx xxxx xxxx`: internal unclassified; the low ten bits.
    InternalUnclassified(u16),
    /// `000F 0000 0000 11LL`.
    GenericCacheHierarchy {
        /// LL.
        level: Level,
    },
    /// `000F 0000 0001 TTLL`.
    Tlb {
        /// TT.
        transaction: Transaction,
        /// LL.
        level: Level,
    },
    /// `000F 0000 1MMM CCCC`.
    MemoryController {
        /// MMM.
        operation: MemoryOperation,
        /// CCCC, 0 to 14; `None` where the bank does not say (15).
        channel: Option<u8>,
    },
    /// `000F 0001 RRRR TTLL`.
    CacheHierarchy {
        /// RRRR.
        request: Request,
        /// TT.
        transaction: Transaction,
        /// LL.
        level: Level,
    },
    /// `000F 0010 1MMM CCCC`: memory that serves as a cache of slower memory.
    ExtendedMemory {
        /// MMM.
        operation: MemoryOperation,
        /// CCCC, 0 to 14; `None` where the bank does not say (15).
        channel: Option<u8>,
    },
    /// `000F 1PPT RRRR IILL`.
    Bus {
        /// PP.
        participation: Participation,
        /// T: the request timed out.
        timeout: bool,
        /// RRRR.
        request: Request,
        /// II.
        target: BusTarget,
        /// LL.
        level: Level,
    },
    /// No architectural meaning; the code as found.
    Unknown(u16),
}

/// LL: level in the memory hierarchy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the manual's own")]
pub enum Level {
    L0,
    L1,
    L2,
    Generic,
}

/// TT: what was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the manual's own")]
pub enum Transaction {
    Instruction,
    Data,
    Generic,
    Reserved,
}

/// RRRR: what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the manual's own")]
pub enum Request {
    Error,
    Read,
    Write,
    DataRead,
    DataWrite,
    InstructionRead,
    Prefetch,
    Eviction,
    Snoop,
    /// 9 to 15.
    Reserved(u8),
}

/// MMM: what the memory controller was doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the manual's own")]
pub enum MemoryOperation {
    Undefined,
    Read,
    Write,
    AddressCommand,
    Scrub,
    /// 5 to 7.
    Reserved(u8),
}

/// PP: the part this processor had in the bus transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the manual's own")]
pub enum Participation {
    Source,
    Responder,
    Observer,
    Generic,
}

/// II: what the bus transaction addressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the manual's own")]
pub enum BusTarget {
    Memory,
    Reserved,
    Io,
    Other,
}

impl ErrorCode {
    /// Decodes bits 15:0 as Intel defines them.
    ///
    /// Bit 12 (F, "correction report filtering") of compound codes changes how often such errors are
    /// reported, not what they mean, and is left out.
    #[must_use]
    pub const fn from_mcacod(mcacod: u16) -> Self {
        match mcacod {
            0 => return Self::NoError,
            1 => return Self::Unclassified,
            2 => return Self::MicrocodeRomParity,
            3 => return Self::External,
            4 => return Self::Frc,
            5 => return Self::InternalParity,
            6 => return Self::SmmHandlerCodeAccess,
            0x400 => return Self::InternalTimer,
            0xe0b => return Self::Io,
            0x401..=0x7ff => return Self::InternalUnclassified(mcacod & 0x3ff),
            _ => {}
        }
        // Most significant set bit first: each form is told from the others by its leading one.
        match mcacod & !(1 << 12) {
            0x000c..=0x000f => Self::GenericCacheHierarchy { level: Level::from_bits(mcacod) },
            0x0010..=0x001f => Self::Tlb {
                transaction: Transaction::from_bits(mcacod >> 2),
                level: Level::from_bits(mcacod),
            },
            0x0080..=0x00ff => Self::MemoryController {
                operation: MemoryOperation::from_bits(mcacod >> 4),
                channel: channel(mcacod),
            },
            0x0100..=0x01ff => Self::CacheHierarchy {
                request: Request::from_bits(mcacod >> 4),
                transaction: Transaction::from_bits(mcacod >> 2),
                level: Level::from_bits(mcacod),
            },
            0x0280..=0x02ff => Self::ExtendedMemory {
                operation: MemoryOperation::from_bits(mcacod >> 4),
                channel: channel(mcacod),
            },
            0x0800..=0x0fff => Self::Bus {
                participation: Participation::from_bits(mcacod >> 9),
                timeout: mcacod >> 8 & 1 == 1,
                request: Request::from_bits(mcacod >> 4),
                target: BusTarget::from_bits(mcacod >> 2),
                level: Level::from_bits(mcacod),
            },
            _ => Self::Unknown(mcacod),
        }
    }

    /// Decodes bits 15:0 as AMD defines them: TLB, cache, bus and internal codes only.
    #[must_use]
    pub const fn from_amd(error_code: u16) -> Self {
        match Self::from_mcacod(error_code) {
            // `0000 01UU 0000 0000`: nothing but UU may be set.
            Self::InternalUnclassified(low) if low & 0xff != 0 => Self::Unknown(error_code),
            code @ (Self::NoError
            | Self::Tlb { .. }
            | Self::CacheHierarchy { .. }
            | Self::InternalUnclassified(_)
            | Self::Bus { .. })
                if error_code < 0x1000 =>
            {
                code
            }
            // What Intel calls the internal timer is `0000 01UU 0000 0000` with UU = 0 here, and
            // its generic I/O error is an ordinary bus code.
            Self::InternalTimer => Self::InternalUnclassified(0),
            Self::Io => Self::Bus {
                participation: Participation::Generic,
                timeout: false,
                request: Request::Error,
                target: BusTarget::Io,
                level: Level::Generic,
            },
            _ => Self::Unknown(error_code),
        }
    }

    /// The kind of hardware the code speaks of.
    #[must_use]
    pub const fn class(self) -> ErrorClass {
        match self {
            Self::MemoryController { .. } | Self::ExtendedMemory { .. } => ErrorClass::Memory,
            Self::GenericCacheHierarchy { .. } | Self::CacheHierarchy { .. } => ErrorClass::Cache,
            Self::Tlb { .. } => ErrorClass::Tlb,
            Self::Bus { .. } | Self::Io | Self::External => ErrorClass::Bus,
            Self::Unclassified
            | Self::MicrocodeRomParity
            | Self::Frc
            | Self::InternalParity
            | Self::SmmHandlerCodeAccess
            | Self::InternalTimer
            | Self::InternalUnclassified(_) => ErrorClass::Internal,
            Self::NoError | Self::Unknown(_) => ErrorClass::Unknown,
        }
    }

    /// The memory channel the code names.
    #[must_use]
    pub const fn channel(self) -> Option<u8> {
        match self {
            Self::MemoryController { channel, .. } | Self::ExtendedMemory { channel, .. } => {
                channel
            }
            _ => None,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

impl ErrorCode {
    /// Writes what went wrong, as the subject of a sentence: `memory read error on channel 1`. Piece by
    /// piece: this is in every record of a machine check, and the general formatter takes its time.
    pub(super) fn write(self, out: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::NoError => out.write_str("no error code"),
            Self::Unclassified => out.write_str("unclassified error"),
            Self::MicrocodeRomParity => out.write_str("microcode ROM parity error"),
            Self::External => out.write_str("error signalled by another processor"),
            Self::Frc => out.write_str("redundancy check (FRC) error"),
            Self::InternalParity => out.write_str("internal parity error"),
            Self::SmmHandlerCodeAccess => out.write_str("SMM handler left its code range"),
            Self::InternalTimer => out.write_str("internal timer error"),
            Self::Io => out.write_str("I/O error"),
            Self::InternalUnclassified(low) => {
                write!(out, "internal unclassified error {low:#05x}")
            }
            Self::GenericCacheHierarchy { level } => pieces(out, &[level.name(), " cache error"]),
            Self::Tlb { transaction, level } => {
                pieces(out, &[level.name(), " ", transaction.name(), " TLB error"])
            }
            Self::MemoryController { operation, channel } => {
                pieces(out, &["memory ", operation.name(), " error"])?;
                on_channel(channel, out)
            }
            Self::CacheHierarchy { request, transaction, level } => {
                let (level, transaction) = (level.name(), transaction.name());
                pieces(out, &[level, " ", transaction, " cache error during ", request.name()])
            }
            Self::ExtendedMemory { operation, channel } => {
                pieces(out, &["memory-side cache ", operation.name(), " error"])?;
                on_channel(channel, out)
            }
            Self::Bus { participation, timeout, request, target, level } => {
                pieces(out, &["bus error during ", request.name(), " of ", target.name()])?;
                pieces(out, &[", ", level.name(), ", ", participation.name()])?;
                if timeout { out.write_str(", timed out") } else { Ok(()) }
            }
            Self::Unknown(code) => write!(out, "unknown error code {code:#06x}"),
        }
    }
}

fn pieces(out: &mut impl fmt::Write, pieces: &[&str]) -> fmt::Result {
    pieces.iter().try_for_each(|piece| out.write_str(piece))
}

fn on_channel(channel: Option<u8>, out: &mut impl fmt::Write) -> fmt::Result {
    let Some(channel) = channel else { return Ok(()) };
    out.write_str(" on channel ")?;
    match channel {
        0..10 => out.write_char(char::from(b'0' + channel)),
        _ => write!(out, "{channel}"),
    }
}

const fn channel(bits: u16) -> Option<u8> {
    match bits & 15 {
        15 => None,
        channel => Some(channel.to_le_bytes()[0]),
    }
}

impl Level {
    const fn from_bits(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::L0,
            1 => Self::L1,
            2 => Self::L2,
            _ => Self::Generic,
        }
    }
}

impl Transaction {
    const fn from_bits(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::Instruction,
            1 => Self::Data,
            2 => Self::Generic,
            _ => Self::Reserved,
        }
    }
}

impl Request {
    const fn from_bits(bits: u16) -> Self {
        match bits & 15 {
            0 => Self::Error,
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::DataRead,
            4 => Self::DataWrite,
            5 => Self::InstructionRead,
            6 => Self::Prefetch,
            7 => Self::Eviction,
            8 => Self::Snoop,
            reserved => Self::Reserved(reserved.to_le_bytes()[0]),
        }
    }
}

impl MemoryOperation {
    const fn from_bits(bits: u16) -> Self {
        match bits & 7 {
            0 => Self::Undefined,
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::AddressCommand,
            4 => Self::Scrub,
            reserved => Self::Reserved(reserved.to_le_bytes()[0]),
        }
    }
}

impl Participation {
    const fn from_bits(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::Source,
            1 => Self::Responder,
            2 => Self::Observer,
            _ => Self::Generic,
        }
    }
}

impl BusTarget {
    const fn from_bits(bits: u16) -> Self {
        match bits & 3 {
            0 => Self::Memory,
            1 => Self::Reserved,
            2 => Self::Io,
            _ => Self::Other,
        }
    }
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::L0 => "level-0",
            Self::L1 => "level-1",
            Self::L2 => "level-2",
            Self::Generic => "any-level",
        }
    }
}

impl Transaction {
    const fn name(self) -> &'static str {
        match self {
            Self::Instruction => "instruction",
            Self::Data => "data",
            Self::Generic => "generic",
            Self::Reserved => "reserved-type",
        }
    }
}

impl Request {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "an unspecified request",
            Self::Read => "read",
            Self::Write => "write",
            Self::DataRead => "data read",
            Self::DataWrite => "data write",
            Self::InstructionRead => "instruction fetch",
            Self::Prefetch => "prefetch",
            Self::Eviction => "eviction",
            Self::Snoop => "snoop",
            Self::Reserved(9) => "reserved request 9",
            Self::Reserved(10) => "reserved request 10",
            Self::Reserved(11) => "reserved request 11",
            Self::Reserved(12) => "reserved request 12",
            Self::Reserved(13) => "reserved request 13",
            Self::Reserved(14) => "reserved request 14",
            Self::Reserved(_) => "reserved request 15",
        }
    }
}

impl MemoryOperation {
    const fn name(self) -> &'static str {
        match self {
            Self::Undefined => "controller",
            Self::Read => "read",
            Self::Write => "write",
            Self::AddressCommand => "address/command",
            Self::Scrub => "scrub",
            Self::Reserved(5) => "reserved-operation 5",
            Self::Reserved(6) => "reserved-operation 6",
            Self::Reserved(_) => "reserved-operation 7",
        }
    }
}

impl Participation {
    const fn name(self) -> &'static str {
        match self {
            Self::Source => "requested here",
            Self::Responder => "answered here",
            Self::Observer => "seen as third party",
            Self::Generic => "part not stated",
        }
    }
}

impl BusTarget {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Reserved => "a reserved target",
            Self::Io => "I/O",
            Self::Other => "another target",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn check(mcacod: u16, expected: &str, class: ErrorClass) {
        let code = ErrorCode::from_mcacod(mcacod);
        assert_eq!((code.to_string().as_str(), code.class()), (expected, class), "{mcacod:#06x}");
    }

    #[test]
    fn every_form_of_the_manual() {
        use ErrorClass::*;
        check(0x0000, "no error code", Unknown);
        check(0x0001, "unclassified error", Internal);
        check(0x0002, "microcode ROM parity error", Internal);
        check(0x0003, "error signalled by another processor", Bus);
        check(0x0004, "redundancy check (FRC) error", Internal);
        check(0x0005, "internal parity error", Internal);
        check(0x0006, "SMM handler left its code range", Internal);
        check(0x0007, "unknown error code 0x0007", Unknown);
        check(0x0400, "internal timer error", Internal);
        check(0x0405, "internal unclassified error 0x005", Internal);
        check(0x07ff, "internal unclassified error 0x3ff", Internal);
        check(0x0e0b, "I/O error", Bus);
        check(0x000c, "level-0 cache error", Cache);
        check(0x000f, "any-level cache error", Cache);
        check(0x0010, "level-0 instruction TLB error", Tlb);
        check(0x0016, "level-2 data TLB error", Tlb);
        check(0x0020, "unknown error code 0x0020", Unknown);
        check(0x0080, "memory controller error on channel 0", Memory);
        check(0x0091, "memory read error on channel 1", Memory);
        check(0x00a2, "memory write error on channel 2", Memory);
        check(0x00b3, "memory address/command error on channel 3", Memory);
        check(0x00cf, "memory scrub error", Memory);
        check(0x00d0, "memory reserved-operation 5 error on channel 0", Memory);
        check(0x0134, "level-0 data cache error during data read", Cache);
        check(0x0150, "level-0 instruction cache error during instruction fetch", Cache);
        check(0x017a, "level-2 generic cache error during eviction", Cache);
        check(0x0280, "memory-side cache controller error on channel 0", Memory);
        check(0x029f, "memory-side cache read error", Memory);
        check(0x0200, "unknown error code 0x0200", Unknown);
        check(
            0x0c0f,
            "bus error during an unspecified request of another target, any-level, seen as third party",
            Bus,
        );
        check(0x0913, "bus error during read of memory, any-level, requested here, timed out", Bus);
    }

    #[test]
    fn the_filtering_bit_changes_nothing_but_simple_codes() {
        for mcacod in 0u16..0x1000 {
            let filtered = ErrorCode::from_mcacod(mcacod | 0x1000);
            match ErrorCode::from_mcacod(mcacod) {
                ErrorCode::Unknown(_)
                | ErrorCode::NoError
                | ErrorCode::Unclassified
                | ErrorCode::MicrocodeRomParity
                | ErrorCode::External
                | ErrorCode::Frc
                | ErrorCode::InternalParity
                | ErrorCode::SmmHandlerCodeAccess
                | ErrorCode::InternalTimer
                | ErrorCode::InternalUnclassified(_) => {
                    assert_eq!(filtered, ErrorCode::Unknown(mcacod | 0x1000));
                }
                // 0x1e0b is a bus code with the same fields as the simple I/O code.
                ErrorCode::Io => assert!(matches!(filtered, ErrorCode::Bus { .. })),
                code => assert_eq!(filtered, code, "{mcacod:#06x}"),
            }
        }
        assert_eq!(ErrorCode::from_mcacod(0x2091), ErrorCode::Unknown(0x2091));
    }

    #[test]
    fn amd_has_no_memory_controller_codes() {
        assert_eq!(ErrorCode::from_amd(0x0091), ErrorCode::Unknown(0x0091));
        assert_eq!(ErrorCode::from_amd(0x0135), ErrorCode::from_mcacod(0x0135));
        assert_eq!(ErrorCode::from_amd(0x0400), ErrorCode::InternalUnclassified(0));
        assert!(matches!(ErrorCode::from_amd(0x0e0b), ErrorCode::Bus { .. }));
        assert_eq!(ErrorCode::from_amd(0x1135), ErrorCode::Unknown(0x1135));
    }
}
