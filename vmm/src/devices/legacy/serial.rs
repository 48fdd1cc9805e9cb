//! The output half of a 16550 UART: what a guest prints. Nothing is ever received.
//!
//! PC16550D data sheet, section 8 "Registers".

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// Registers of the UART, in bytes of port space.
pub const PORTS: u16 = 8;

/// IER: interrupt when the transmitter is empty.
const IER_THRE: u8 = 1 << 1;
/// IIR: no interrupt pending.
const IIR_NONE: u8 = 1;
/// IIR: the transmitter is empty.
const IIR_THRE: u8 = 1 << 1;
/// IIR and FCR: FIFOs are enabled.
const IIR_FIFO: u8 = 0b1100_0000;
/// LCR: the divisor latch is visible at offsets 0 and 1.
const LCR_DLAB: u8 = 1 << 7;
/// MCR: what is sent is received again; nothing leaves.
const MCR_LOOP: u8 = 1 << 4;
/// LSR: transmitter and its holding register are empty. Always: a byte leaves at once.
const LSR_IDLE: u8 = 1 << 6 | 1 << 5;
/// MSR: carrier, data set ready, clear to send.
const MSR_READY: u8 = 1 << 7 | 1 << 5 | 1 << 4;

/// Where the bytes go.
#[derive(Debug)]
pub enum Output {
    /// To standard output. A reader that does not keep up loses bytes: a guest must not be stopped
    /// by whoever watches it.
    Stdio,
    /// To a file.
    File(File, PathBuf),
    /// Nowhere.
    Null,
}

/// The UART.
#[derive(Debug)]
pub struct Serial {
    registers: Registers,
    output: Output,
    /// Bytes that found no taker.
    lost: u64,
}

/// The state a guest can see, and a migration carries.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Registers {
    ier: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: [u8; 2],
    fifo: bool,
    thre_pending: bool,
}

impl Serial {
    /// A UART that prints to `output`.
    #[must_use]
    pub fn new(output: Output) -> Self {
        Self { registers: Registers::default(), output, lost: 0 }
    }

    /// Reads the register at `offset` (0 to 7).
    pub fn read(&mut self, offset: u16) -> u8 {
        let registers = &mut self.registers;
        match offset {
            0 | 1 if registers.lcr & LCR_DLAB != 0 => registers.divisor[usize::from(offset)],
            0 => 0,
            1 => registers.ier,
            2 => {
                let fifo = if registers.fifo { IIR_FIFO } else { 0 };
                // Reading it acknowledges the interrupt it reports.
                let cause =
                    if std::mem::take(&mut registers.thre_pending) { IIR_THRE } else { IIR_NONE };
                fifo | cause
            }
            3 => registers.lcr,
            4 => registers.mcr,
            5 => LSR_IDLE,
            // In loop mode the modem outputs come back as inputs, which is how drivers detect a UART.
            6 if registers.mcr & MCR_LOOP != 0 => {
                let mcr = registers.mcr;
                (mcr & 0b1100) << 4 | (mcr & 0b10) << 3 | (mcr & 1) << 5
            }
            6 => MSR_READY,
            7 => registers.scr,
            _ => 0xff,
        }
    }

    /// Writes the register at `offset` (0 to 7). True if the interrupt line is to be pulsed.
    pub fn write(&mut self, offset: u16, value: u8) -> bool {
        let registers = &mut self.registers;
        match offset {
            0 | 1 if registers.lcr & LCR_DLAB != 0 => {
                registers.divisor[usize::from(offset)] = value;
                return false;
            }
            0 if registers.mcr & MCR_LOOP == 0 => self.print(value),
            0 => {}
            1 => registers.ier = value & 0xf,
            2 => {
                registers.fifo = value & 1 != 0;
                return false;
            }
            3 => registers.lcr = value,
            4 => registers.mcr = value & 0x1f,
            7 => registers.scr = value,
            _ => {}
        }
        let interrupt = offset < 2 && self.registers.ier & IER_THRE != 0;
        self.registers.thre_pending |= interrupt;
        interrupt
    }

    /// The state for a migration.
    #[must_use]
    pub fn registers(&self) -> Registers {
        self.registers
    }

    /// Goes back to the state of a fresh one. Where it prints to stays.
    pub fn reset(&mut self) {
        self.registers = Registers::default();
    }

    /// Takes over the state of a migrated UART.
    pub fn restore(&mut self, registers: Registers) {
        self.registers = registers;
    }

    fn print(&mut self, byte: u8) {
        let printed = match &mut self.output {
            Output::Null => Ok(()),
            Output::File(file, _) => file.write_all(&[byte]),
            Output::Stdio => print_now(byte),
        };
        if let Err(error) = printed {
            self.lost += 1;
            if self.lost == 1 {
                let place = match &self.output {
                    Output::File(_, path) => path.display().to_string(),
                    _ => "standard output".to_owned(),
                };
                tracing::warn!("serial output to {place} loses bytes: {error}");
            }
        }
    }
}

/// Writes to standard output past its buffer, unless that would wait.
fn print_now(byte: u8) -> io::Result<()> {
    let stdout = io::stdout();
    let mut ready = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut ready, PollTimeout::ZERO)? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    nix::unistd::write(&stdout, &[byte])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn bytes_leave_at_once_and_the_divisor_latch_keeps_them() {
        let mut file = tempfile::tempfile().expect("a file");
        let copy = file.try_clone().expect("a second handle");
        let mut serial = Serial::new(Output::File(copy, PathBuf::from("test")));
        for byte in b"hi" {
            serial.write(0, *byte);
        }
        serial.write(3, LCR_DLAB);
        serial.write(0, 1);
        assert_eq!(serial.read(0), 1);
        serial.write(3, 3);
        serial.write(0, b'!');
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).expect("seek");
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "hi!");
        assert_eq!(serial.read(5), LSR_IDLE);
    }

    #[test]
    fn an_empty_transmitter_interrupts_once() {
        let mut serial = Serial::new(Output::Null);
        assert!(!serial.write(0, b'a'));
        assert!(serial.write(1, IER_THRE), "enabling reports the empty transmitter");
        assert_eq!(serial.read(2), IIR_THRE);
        assert_eq!(serial.read(2), IIR_NONE);
        assert!(serial.write(0, b'a'));
    }

    #[test]
    fn loop_mode_is_how_drivers_detect_it() {
        let mut serial = Serial::new(Output::Null);
        serial.write(4, MCR_LOOP | 0b1010);
        assert_eq!(serial.read(6) & 0xf0, 0x90);
    }
}
