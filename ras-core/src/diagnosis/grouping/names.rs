//! One module, several names: firmware and EDAC call it by a label, machine checks by socket, controller
//! and channel, SMBIOS by a handle. A record that has two of them, of its own or through a witness, says
//! that they are names of one module.
//!
//! Only what contradicts nothing is believed: two names belong together if neither was ever seen with
//! another name of that kind. Records of several machines, or a board that labels two modules alike,
//! therefore keep their modules apart.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{Part, PartKind};
use crate::{DimmLocation, ErrorClass, ErrorRecord, Location, SmolStr, Value};

/// Pairs of names remembered: some for each of [`super::PARTS_MAX`] modules. What comes later is not
/// joined.
const LINKS_MAX: usize = 8 * super::PARTS_MAX;
/// Witnesses of one record that are asked; real ones have a few.
const WITNESSES_MAX: usize = 8;

/// One name of a module.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Name {
    Label(SmolStr),
    /// SMBIOS type 17.
    Handle(u16),
    /// Socket, controller, channel, node, card, module.
    Place(Place),
}

/// In the order above.
type Place = [Option<u32>; 6];

/// Names of different kinds are of different counting: what a source leaves out it counts in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Label,
    Handle,
    /// Which fields of a place are known.
    Place([bool; 6]),
}

impl Name {
    fn kind(&self) -> Kind {
        match self {
            Self::Label(_) => Kind::Label,
            Self::Handle(_) => Kind::Handle,
            Self::Place(place) => Kind::Place(place.map(|field| field.is_some())),
        }
    }

    /// All names that `location` has for a single module.
    fn of(location: &Location) -> impl Iterator<Item = Self> {
        let Location { socket, imc, channel, dimm, fru, .. } = location;
        let DimmLocation { node, card, module, module_handle, .. } = *dimm;
        let place = [
            *socket,
            imc.map(u32::from),
            channel.map(u32::from),
            node.map(u32::from),
            card.map(u32::from),
            module.map(u32::from),
        ];
        // A module's number alone is one of each channel's.
        let single = module.is_some() && place.iter().flatten().count() > 1;
        let label = super::part::label(fru.as_deref()).filter(|label| super::part::is_one(label));
        [
            label.map(Self::Label),
            module_handle.map(Self::Handle),
            single.then_some(Self::Place(place)),
        ]
        .into_iter()
        .flatten()
    }
}

/// Which names were seen together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Names {
    /// The name of that kind that goes with a name; `None` where there were several.
    links: BTreeMap<(Name, Kind), Option<Name>>,
}

impl Names {
    /// Takes note of all names of the module that `record` concerns.
    pub(super) fn add(&mut self, record: &ErrorRecord) {
        if record.class != ErrorClass::Memory {
            return;
        }
        let mut names: BTreeSet<Name> = Name::of(&record.location).collect();
        if !record.witnesses.is_empty() {
            names.extend(Name::of(&own_location(record)));
            let witnesses = record.witnesses.iter().take(WITNESSES_MAX);
            let memory = witnesses.filter(|witness| witness.class == ErrorClass::Memory);
            names.extend(memory.flat_map(|witness| Name::of(&witness.location)));
        }
        if names.len() < 2 {
            return;
        }
        for one in &names {
            for other in names.iter().filter(|other| *other != one) {
                self.link(one, other);
            }
        }
    }

    fn link(&mut self, one: &Name, other: &Name) {
        let key = (one.clone(), other.kind());
        let room = self.links.len() < LINKS_MAX;
        match self.links.get_mut(&key) {
            Some(known) if known.as_ref() == Some(other) => {}
            Some(known) => *known = None,
            None if room => {
                self.links.insert(key, Some(other.clone()));
            }
            None => {}
        }
    }

    /// The names that surely go with `name`.
    fn beside<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Name> {
        let from = (name.clone(), Kind::Label);
        let links = self.links.range(from..).take_while(move |((of, _), _)| of == name);
        links.filter_map(|(_, other)| other.as_ref()).filter(move |other| {
            let back = self.links.get(&((*other).clone(), name.kind()));
            back.is_some_and(|back| back.as_ref() == Some(name))
        })
    }

    /// Parts that are one module, in groups of two or more, the best named first.
    pub(super) fn same<'a>(&self, parts: impl Iterator<Item = &'a Part>) -> Vec<Vec<&'a Part>> {
        let mut of_name: BTreeMap<Name, Vec<&Part>> = BTreeMap::new();
        let modules = parts.filter(|part| part.kind == PartKind::Module);
        for part in modules {
            for name in Name::of(&part.place) {
                of_name.entry(name).or_default().push(part);
            }
        }
        let mut seen: BTreeSet<&Name> = BTreeSet::new();
        let mut same = Vec::new();
        for start in of_name.keys() {
            let (mut names, mut next): (Vec<&Name>, Vec<&Name>) = (Vec::new(), Vec::from([start]));
            while let Some(name) = next.pop() {
                if seen.insert(name) {
                    names.push(name);
                    next.extend(self.beside(name));
                }
            }
            let kinds: BTreeSet<Kind> = names.iter().map(|name| name.kind()).collect();
            if kinds.len() < names.len() {
                // By a detour, two names of a kind would be one module's.
                continue;
            }
            let parts = names.iter().filter_map(|name| of_name.get(*name)).flatten();
            let parts: BTreeSet<&Part> = parts.copied().collect();
            let mut parts: Vec<&Part> = parts.into_iter().collect();
            parts.sort_by_key(|part| (part.place.fru.is_none(), *part));
            // A part of several names can be found by each of them, in different groups.
            if parts.len() > 1 {
                same.push(parts);
            }
        }
        same
    }
}

/// The location without what [`crate::Join`] filled in from witnesses.
fn own_location(record: &ErrorRecord) -> Location {
    let mut own = record.location.clone();
    let filled = record.details.iter().filter(|detail| detail.name == "location_from");
    for detail in filled {
        let Value::Group(fields) = &detail.value else { continue };
        for field in fields {
            match field.name.as_ref() {
                "socket" => own.socket = None,
                "fru" => own.fru = None,
                "imc" => own.imc = None,
                "channel" => own.channel = None,
                "dimm.node" => own.dimm.node = None,
                "dimm.card" => own.dimm.card = None,
                "dimm.module" => own.dimm.module = None,
                "dimm.module_handle" => own.dimm.module_handle = None,
                _ => {}
            }
        }
    }
    own
}
