//! ACPI's tables about error sources: HEST, BERT, ERST, EINJ.
