//! What a model decoder finds in a bank: plain data without a heap, so that millions of errors a
//! second can be looked through.

use arrayvec::ArrayVec;
use ras_core::{Detail, Details, DimmLocation, ErrorClass, PciAddress, Value};

/// Facts kept of one bank. The richest, a scalable-MCA memory controller with every register valid, has
/// 27; a test beside its decoder counts them.
pub const FACTS_MAX: usize = 28;

/// What a model decoder adds to the architectural meaning of a bank. All of it is optional.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Findings {
    /// The processor's generation, as its maker names it: `Ice Lake server`, `Zen 3`.
    pub generation: Option<&'static str>,
    /// The hardware block the bank belongs to: `M2M`, `unified memory controller`.
    pub unit: Option<&'static str>,
    /// What the model-specific code means.
    pub error: Option<&'static str>,
    /// The kind of hardware, where the model knows better than the architectural code.
    pub class: Option<ErrorClass>,
    /// Memory controller.
    pub imc: Option<u16>,
    /// Memory channel, where the model knows better than the architectural code.
    pub channel: Option<u8>,
    /// The module, and the cells in it.
    pub dimm: DimmLocation,
    /// The PCI function it concerns.
    pub pci: Option<PciAddress>,
    facts: ArrayVec<(&'static str, Fact), FACTS_MAX>,
}

/// One named fact. See [`Value`], which it becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact {
    /// A count or an index.
    Number(u64),
    /// Raw bits or an address.
    Hex(u64),
    /// A single bit.
    Flag(bool),
    /// Words.
    Text(&'static str),
    /// An encoded value and its meaning.
    Code(u64, Option<&'static str>),
    /// Bits, and the names of those that have one.
    Flags(u64, &'static [(u32, &'static str)]),
}

impl Findings {
    /// Adds a fact. What exceeds [`FACTS_MAX`] is left out: the raw registers are kept beside it.
    pub fn add(&mut self, name: &'static str, fact: Fact) {
        let _ = self.facts.try_push((name, fact));
    }

    /// Adds an encoded value, looked up in `table`.
    pub fn code(&mut self, name: &'static str, code: u64, table: &[(u64, &'static str)]) {
        self.add(name, Fact::Code(code, meaning(table, code)));
    }

    /// The facts, in the order they were found.
    #[must_use]
    pub fn facts(&self) -> &[(&'static str, Fact)] {
        &self.facts
    }
}

/// The meaning of `code` in a table sorted or not; the first entry wins.
#[must_use]
pub fn meaning(table: &[(u64, &'static str)], code: u64) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == code).map(|(_, meaning)| *meaning)
}

impl From<Fact> for Value {
    #[inline]
    fn from(fact: Fact) -> Self {
        match fact {
            Fact::Number(number) => Self::Number(number),
            Fact::Hex(bits) => Self::Hex(bits),
            Fact::Flag(flag) => Self::Flag(flag),
            Fact::Text(text) => text.into(),
            Fact::Code(code, meaning) => Self::Code { code, meaning: meaning.map(Into::into) },
            Fact::Flags(bits, table) => Self::flags(bits, table),
        }
    }
}

/// The findings as details of a record.
pub(super) fn add_to(findings: &Findings, details: &mut alloc::vec::Vec<Detail>) {
    details.add_some("generation", findings.generation);
    details.add_some("unit", findings.unit);
    details.add_some("error", findings.error);
    for (name, fact) in findings.facts() {
        details.add(name, *fact);
    }
}
