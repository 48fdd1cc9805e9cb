//! Memory accesses that survive poison.
// UNSAFETY: reads and writes physical pages by address.
#![allow(unsafe_code)]

use core::arch::global_asm;

use guest::page::{Gpa, Memory, PAGE_SIZE, Poisoned, STRIDE, WORDS};
use guest::ring::{Advance, Stop};

use crate::machine::machine_check;

// As kernels do it with exception tables: a machine check that finds the instruction pointer
// between `guarded_start` and `guarded_end` sends it to `guarded_fixup`, where the routine returns
// with bit 63 of its result set.
//
// The instruction pointer may be one instruction past the access: a VMM that notices poison as an
// MMIO exit completes the access before the machine check is delivered. It is still in the range.
global_asm!(
    r#"
    .text
    .globl guarded_start, guarded_end, guarded_fixup
    .globl guarded_load, guarded_store, guarded_touch, guarded_advance
guarded_start:

# rdi = destination, rsi = page
guarded_load:
    xor %eax, %eax
    mov (%rsi), %rdx
    mov {stride}(%rsi), %rcx
    mov 2*{stride}(%rsi), %r8
    mov %rdx, (%rdi)
    mov %rcx, 8(%rdi)
    mov %r8, 16(%rdi)
    ret

# rdi = page; rsi, rdx, rcx = words
guarded_store:
    xor %eax, %eax
    mov %rsi, (%rdi)
    mov %rdx, {stride}(%rdi)
    mov %rcx, 2*{stride}(%rdi)
    ret

# rdi = address
guarded_touch:
    xor %eax, %eax
    mov (%rdi), %rdx
    ret

# rdi = first page, rsi = pages, rdx = old, rcx = new, r8 = 0 to take any old value
# Result: pages done.
guarded_advance:
    xor %eax, %eax
2:  cmp %rsi, %rax
    jae 4f
    mov (%rdi), %r9
    cmp %rdx, %r9
    jne 5f
3:  mov %rcx, (%rdi)
    add $4096, %rdi
    inc %rax
    jmp 2b
4:  ret
5:  test %r8, %r8
    jz 3b
    ret

guarded_end:
guarded_fixup:
    bts $63, %rax
    ret
    "#,
    stride = const STRIDE,
    options(att_syntax)
);

unsafe extern "C" {
    fn guarded_load(to: *mut [u64; WORDS], page: u64) -> u64;
    fn guarded_store(page: u64, first: u64, second: u64, third: u64) -> u64;
    fn guarded_touch(address: u64) -> u64;
    fn guarded_advance(first: u64, pages: u64, old: u64, new: u64, check: u64) -> u64;
    static guarded_start: u8;
    static guarded_end: u8;
    static guarded_fixup: u8;
}

const POISONED: u64 = 1 << 63;

/// Where to continue instead, if `rip` was inside a guarded access.
pub fn fixup(rip: u64) -> Option<u64> {
    let [start, end, fixup] =
        [&raw const guarded_start, &raw const guarded_end, &raw const guarded_fixup]
            .map(|label| label.addr() as u64);
    (start..end).contains(&rip).then_some(fixup)
}

/// All of physical memory. The caller sees to it that a page is RAM or lies in a plugged block.
pub struct Physical;

/// Attempts at one access. Each but the last was interrupted by a machine check about other memory.
const ATTEMPTS_MAX: u32 = 8;

impl Physical {
    /// Reads one word of `page` and forgets it.
    ///
    /// # Errors
    /// [`Poisoned`] if a machine check interrupted the read.
    pub fn touch(&mut self, page: Gpa) -> Result<(), Poisoned> {
        // SAFETY: reads 8 bytes of a page that `Frames` knows as memory.
        attempt(page, || unsafe { guarded_touch(page.0) })
    }
}

impl Memory for Physical {
    fn load(&mut self, page: Gpa) -> Result<[u64; WORDS], Poisoned> {
        let mut words = [0; WORDS];
        // SAFETY: reads inside a page that `Frames` gave to the working set; writes `words`.
        attempt(page, || unsafe { guarded_load(&raw mut words, page.0) })?;
        Ok(words)
    }

    fn store(&mut self, page: Gpa, words: &[u64; WORDS]) -> Result<(), Poisoned> {
        let [first, second, third] = *words;
        // SAFETY: writes inside a page that `Frames` gave to the working set; no Rust object lies
        // there.
        attempt(page, || unsafe { guarded_store(page.0, first, second, third) })
    }
}

impl Advance for Physical {
    fn advance(&mut self, first: Gpa, pages: u64, old: Option<u64>, new: u64) -> (u64, Stop) {
        let (value, check) = (old.unwrap_or(0), u64::from(old.is_some()));
        // SAFETY: writes inside the pages that `Frames` reserved for the ring.
        let result = unsafe { guarded_advance(first.0, pages, value, new, check) };
        let done = result & !POISONED;
        let here = Gpa(first.0 + done * PAGE_SIZE);
        match () {
            () if result & POISONED != 0 && machine_check::required(here) => (done, Stop::Poisoned),
            // Interrupted for another page, perhaps between the store and the count: `new` may be
            // there already.
            () if result & POISONED != 0 => match self.resume(here, old, new) {
                Ok(true) => (done + 1, Stop::End),
                Ok(false) => (done, Stop::Mismatch),
                Err(Poisoned) => (done, Stop::Poisoned),
            },
            () if done < pages => (done, Stop::Mismatch),
            () => (done, Stop::End),
        }
    }
}

impl Physical {
    /// Finishes one page of the ring; whether it held `old` or already `new`.
    fn resume(&mut self, page: Gpa, old: Option<u64>, new: u64) -> Result<bool, Poisoned> {
        for number in [old, Some(new)] {
            let (value, check) = (number.unwrap_or(0), u64::from(number.is_some()));
            let mut done = 0;
            attempt(page, || {
                // SAFETY: as in `advance`.
                done = unsafe { guarded_advance(page.0, 1, value, new, check) };
                done
            })?;
            if done == 1 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn attempt(page: Gpa, mut access: impl FnMut() -> u64) -> Result<(), Poisoned> {
    for _ in 0..ATTEMPTS_MAX {
        if access() & POISONED == 0 {
            return Ok(());
        }
        if machine_check::required(page) {
            break;
        }
    }
    Err(Poisoned)
}
