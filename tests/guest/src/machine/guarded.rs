//! Memory accesses that survive poison.
// UNSAFETY: reads and writes physical pages by address.
#![allow(unsafe_code)]

use core::arch::global_asm;

use guest::page::{Gpa, Memory, Poisoned, STRIDE, WORDS};
use guest::ring::{Advance, Stop};

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

impl Physical {
    /// Reads one word of `page` and forgets it.
    ///
    /// # Errors
    /// [`Poisoned`] if a machine check interrupted the read.
    pub fn touch(&mut self, page: Gpa) -> Result<(), Poisoned> {
        // SAFETY: reads 8 bytes of a page that `Frames` knows as memory.
        outcome(unsafe { guarded_touch(page.0) })
    }
}

impl Memory for Physical {
    fn load(&mut self, page: Gpa) -> Result<[u64; WORDS], Poisoned> {
        let mut words = [0; WORDS];
        // SAFETY: reads inside a page that `Frames` gave to the working set; writes `words`.
        outcome(unsafe { guarded_load(&raw mut words, page.0) })?;
        Ok(words)
    }

    fn store(&mut self, page: Gpa, words: &[u64; WORDS]) -> Result<(), Poisoned> {
        // SAFETY: writes inside a page that `Frames` gave to the working set; no Rust object lies
        // there.
        outcome(unsafe { guarded_store(page.0, words[0], words[1], words[2]) })
    }
}

impl Advance for Physical {
    fn advance(&mut self, first: Gpa, pages: u64, old: Option<u64>, new: u64) -> (u64, Stop) {
        let (value, check) = (old.unwrap_or(0), u64::from(old.is_some()));
        // SAFETY: writes inside the pages that `Frames` reserved for the ring.
        let result = unsafe { guarded_advance(first.0, pages, value, new, check) };
        let done = result & !POISONED;
        match () {
            () if result & POISONED != 0 => (done, Stop::Poisoned),
            () if done < pages => (done, Stop::Mismatch),
            () => (done, Stop::End),
        }
    }
}

fn outcome(result: u64) -> Result<(), Poisoned> {
    if result & POISONED == 0 { Ok(()) } else { Err(Poisoned) }
}
