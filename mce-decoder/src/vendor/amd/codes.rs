//! Extended error codes of scalable-MCA banks: what `MCA_STATUS[ErrorCodeExt]` means for each type.
//!
//! AMD Processor Programming References (PPR), tables `MCA_STATUS_x[ErrorCodeExt] Decode`. A table
//! is sorted by its code; codes that are not in it are reserved, or of a processor newer than it.

/// Codes and their meanings.
pub(super) type Codes = [(u8, &'static str)];

/// `MCA_STATUS_LS`, Zen and Zen+.
pub(super) const LS: &Codes = &[
    (0, "parity error in the load queue"),
    (1, "parity error in the store queue"),
    (2, "parity error in the payload of the miss address buffer"),
    (3, "parity error in the L1 TLB"),
    (4, "data cache tag error, type 5"),
    (5, "data cache tag error, type 6"),
    (6, "data cache tag error, type 1"),
    (7, "internal error, type 1"),
    (8, "internal error, type 2"),
    (9, "error in data read from the system, thread 0"),
    (10, "error in data read from the system, thread 1"),
    (11, "data cache tag error, type 2"),
    (12, "data cache data error, type 1: poison consumed"),
    (13, "data cache data error, type 2"),
    (14, "data cache data error, type 3"),
    (15, "data cache tag error, type 4"),
    (16, "parity error in the L2 TLB"),
    (17, "parity error in the page directory cache"),
    (18, "data cache tag error, type 3"),
    (19, "data cache tag error, type 5"),
    (20, "error in data filled from the L2 cache"),
    (21, "error in the state or address of a store coalescing buffer line"),
    (22, "error in store coalescing buffer data, commit pipe 0"),
    (23, "error in store coalescing buffer data, commit pipe 1"),
    (24, "error in store coalescing buffer data for non-cacheable DRAM or I/O"),
    (25, "error in data read from the system, seen by the write-combining buffer"),
    (26, "hardware assertion"),
];

/// `MCA_STATUS_LS`, Zen 2 and later.
pub(super) const LS_V2: &Codes = &[
    (0, "data cache ECC error, read by a probe or victim"),
    (1, "data cache ECC error or L2 poison, read by a load"),
    (2, "data cache ECC error, read-modify-write by a store"),
    (3, "tag ECC error or poison mismatch, read by a probe or victim"),
    (4, "tag ECC error or poison mismatch, read by a load"),
    (5, "tag ECC error or poison mismatch, read by a store"),
    (6, "EMEM ECC error, read by a load"),
    (7, "EMEM ECC error, read-modify-write by a store"),
    (8, "parity error in an L1 TLB entry"),
    (9, "parity error in an L2 TLB entry"),
    (10, "parity error in a page walk cache entry"),
    (11, "parity error in a store queue entry"),
    (12, "parity error in a load queue entry"),
    (13, "parity error in a miss address buffer entry"),
    (14, "parity error in the state of a store coalescing buffer entry"),
    (15, "parity error in the address of a store coalescing buffer entry"),
    (16, "parity error in the data of a store coalescing buffer entry"),
    (17, "parity error in a write-combining buffer entry"),
    (18, "poisoned line in a store coalescing buffer entry"),
    (19, "system read data error, returned by the L2 cache to a load"),
    (20, "system read data error, returned by the L2 cache to a coalesced store"),
    (21, "system read data error, returned by the L2 cache to a write-combined store"),
    (22, "hardware assertion"),
    (23, "parity error in store-to-load forwarding, EMEM or store data"),
];

/// `MCA_STATUS_IF`.
pub(super) const IF: &Codes = &[
    (0, "parity error in the microtag, probe port"),
    (1, "several ways hit in the microtag or full tag"),
    (2, "parity error in the full tag"),
    (3, "parity error in the instruction cache data array"),
    (4, "parity error in the probe response queue"),
    (5, "parity error in the L0 instruction TLB"),
    (6, "parity error in the L1 instruction TLB"),
    (7, "parity error in the L2 instruction TLB"),
    (8, "parity error in the branch prediction queue, seen by a snoop, thread 0"),
    (9, "parity error in the branch prediction queue, seen by a snoop, thread 1"),
    (10, "several hits in the L1 branch target buffer"),
    (11, "several hits in the L2 branch target buffer"),
    (12, "poisoned data in the L2 cache's response"),
    (13, "error in data read from the system"),
    (14, "hardware assertion"),
    (15, "several hits in the L1 instruction TLB"),
    (16, "several hits in the L2 instruction TLB"),
    (17, "parity error in the branch status register"),
    (18, "machine check of the CT"),
];

/// `MCA_STATUS_L2`.
pub(super) const L2: &Codes = &[
    (0, "several ways hit in the tag"),
    (1, "ECC error in the tag or state array"),
    (2, "ECC error in the data array"),
    (3, "hardware assertion"),
    (4, "parity error in an SDP read response"),
    (5, "error raised by the programmable state machine"),
];

/// `MCA_STATUS_DE`.
pub(super) const DE: &Codes = &[
    (0, "parity error in the micro-op cache tag array"),
    (1, "parity error in the micro-op cache data array"),
    (2, "parity error in the instruction byte buffer"),
    (3, "parity error in the micro-op queue"),
    (4, "parity error in the instruction dispatch queue"),
    (5, "parity error in the fetch address FIFO"),
    (6, "parity error in the patch RAM data"),
    (7, "parity error in the patch RAM sequencer"),
    (8, "parity error in the micro-op fetch queue"),
    (9, "hardware assertion"),
];

/// `MCA_STATUS_EX`.
pub(super) const EX: &Codes = &[
    (0, "watchdog timeout: no instruction retired"),
    (1, "parity error in the physical register file"),
    (2, "parity error in the flag register file"),
    (3, "parity error in the immediate displacement register file"),
    (4, "parity error in the address generator payload"),
    (5, "parity error in the execution payload"),
    (6, "parity error in the checkpoint queue"),
    (7, "parity error in the retire dispatch queue"),
    (8, "parity error in the retire status queue"),
    (9, "parity error in the scheduling queue"),
    (10, "parity error in the branch buffer queue"),
    (11, "hardware assertion"),
    (12, "parity error in the speculative map"),
    (13, "parity error in the retire map"),
];

/// `MCA_STATUS_FP`.
pub(super) const FP: &Codes = &[
    (0, "parity error in the physical register file"),
    (1, "parity error in the free list"),
    (2, "parity error in the scheduling queue"),
    (3, "parity error in the non-scheduling queue"),
    (4, "parity error in the retire queue"),
    (5, "parity error in the status register file"),
    (6, "hardware assertion"),
    (7, "parity error in the mask (K) register file"),
];

/// `MCA_STATUS_L3`.
pub(super) const L3: &Codes = &[
    (0, "ECC error in the shadow tags"),
    (1, "several ways hit in the shadow tags"),
    (2, "ECC error in the tags"),
    (3, "several ways hit in the tags"),
    (4, "ECC error in the data array"),
    (5, "SDP parity error from the external interface (XI)"),
    (6, "data fabric error in the victim queue"),
    (7, "hardware assertion"),
    (8, "poison made of a parity error in the write-combining buffer"),
    (9, "error raised by the DSM"),
];

/// `MCA_STATUS_CS`, Zen and Zen+.
pub(super) const CS: &Codes = &[
    (0, "illegal request"),
    (1, "address violation"),
    (2, "security violation"),
    (3, "illegal response"),
    (4, "unexpected response"),
    (5, "parity error in a request or probe"),
    (6, "parity error in a read response"),
    (7, "parity error in an atomic request"),
    (8, "ECC error in the probe filter"),
];

/// `MCA_STATUS_CS`, Zen 2 and later.
pub(super) const CS_V2: &Codes = &[
    (0, "illegal request"),
    (1, "address violation"),
    (2, "security violation"),
    (3, "illegal response"),
    (4, "unexpected response"),
    (5, "parity error in a request or probe"),
    (6, "parity error in a read response"),
    (7, "parity error in an atomic request"),
    (8, "SDP read response for no queued request"),
    (9, "protocol error in the probe filter"),
    (10, "ECC error in the probe filter"),
    (11, "unexpected retry in an SDP read response"),
    (12, "counter overflow"),
    (13, "counter underflow"),
    (14, "illegal request on the no-data channel"),
    (15, "address violation on the no-data channel"),
    (16, "security violation on the no-data channel"),
    (17, "hardware assertion"),
    (18, "protocol error in the shadow tag array"),
    (19, "ECC error in the shadow tags"),
    (20, "transaction error in the shadow tags"),
];

/// `MCA_STATUS_CS` as erratum 1384 of Genoa and its relatives has it: codes 9 to 13 are others.
pub(super) const CS_V2_ERRATUM_1384: &Codes = &[
    (0, "illegal request"),
    (1, "address violation"),
    (2, "security violation"),
    (3, "illegal response"),
    (4, "unexpected response"),
    (5, "parity error in a request or probe"),
    (6, "parity error in a read response"),
    (7, "parity error in an atomic request"),
    (8, "SDP read response for no queued request"),
    (9, "unexpected retry in an SDP read response"),
    (10, "counter overflow"),
    (11, "counter underflow"),
    (12, "protocol error in the probe filter"),
    (13, "ECC error in the probe filter"),
    (14, "illegal request on the no-data channel"),
    (15, "address violation on the no-data channel"),
    (16, "security violation on the no-data channel"),
    (17, "hardware assertion"),
];

/// `MCA_STATUS_PIE`.
pub(super) const PIE: &Codes = &[
    (0, "hardware assertion"),
    (1, "security violation of an internal register"),
    (2, "error on a link"),
    (3, "poisoned data consumed"),
    (4, "deferred error in the data fabric"),
    (5, "watchdog timeout"),
    (6, "SRAM ECC error in the CNLI"),
    (7, "register access in a data fabric C-state"),
    (8, "error raised by the DSM"),
];

/// `MCA_STATUS_MALL`.
pub(super) const MA_LLC: &Codes = &[
    (0, "counter overflow"),
    (1, "counter underflow"),
    (2, "parity error in write data"),
    (3, "parity error in a read response"),
    (4, "tag ECC error, macro 0"),
    (5, "tag ECC error, macro 1"),
    (6, "data ECC error"),
];

/// `MCA_STATUS_UMC` of memory controllers for DDR.
pub(super) const UMC: &Codes = &[
    (0, "DRAM ECC error"),
    (1, "poisoned data written to DRAM"),
    (2, "SDP parity error"),
    (3, "peripheral bus (APB) error"),
    (4, "command or address parity error"),
    (5, "write data CRC error"),
    (6, "ECC error in the data command queue SRAM"),
    (7, "ECC error in the AES SRAM"),
    (8, "row error found by the DRAM's own scrub (ECS)"),
    (9, "error found by the DRAM's own scrub (ECS)"),
    (10, "memory controller throttled"),
    (11, "read data CRC error"),
    (16, "ECC error in the refresh management SRAM"),
];

/// `MCA_STATUS_UMC` of MI300: memory controllers for HBM3.
pub(super) const UMC_MI300: &Codes = &[
    (0, "on-die ECC error of the DRAM"),
    (1, "poisoned data"),
    (2, "SDP parity error"),
    (4, "command or address parity error"),
    (5, "write data parity error of the HBM"),
    (6, "ECC error in one of the controller's SRAMs"),
    (9, "ECC error in the read buffer SRAM"),
    (10, "thermal throttling"),
    (11, "read data parity error of the HBM"),
    (13, "firmware error of the memory controller"),
    (14, "parity error in an SRAM"),
    (15, "CRC error of the HBM"),
];

/// `MCA_STATUS_UMC` of MI200: memory controllers for HBM2.
pub(super) const UMC_V2: &Codes = &[
    (0, "DRAM ECC error"),
    (1, "poisoned data"),
    (2, "SDP parity error"),
    (4, "command or address parity error"),
    (5, "write data parity error"),
    (6, "ECC error in the data command queue SRAM"),
    (8, "read data parity error"),
    (9, "ECC error in the read buffer SRAM"),
    (10, "ECC error in the read response SRAM"),
    (11, "error of the LM32 microprocessor"),
];

/// `MCA_STATUS_PB`.
pub(super) const PB: &Codes = &[(0, "ECC error in the parameter block RAM")];

/// `MCA_STATUS_PSP`, Zen and Zen+.
pub(super) const PSP: &Codes = &[(0, "ECC or parity error in a RAM")];

/// `MCA_STATUS_PSP`, Zen 2 and later.
pub(super) const PSP_V2: &Codes = &[
    (0, "ECC or parity error in the high SRAM"),
    (1, "ECC or parity error in the low SRAM"),
    (2, "ECC or parity error in instruction cache bank 0"),
    (3, "ECC or parity error in instruction cache bank 1"),
    (4, "parity error in instruction tag RAM 0"),
    (5, "parity error in instruction tag RAM 1"),
    (6, "ECC or parity error in data cache bank 0"),
    (7, "ECC or parity error in data cache bank 1"),
    (8, "ECC or parity error in data cache bank 2"),
    (9, "ECC or parity error in data cache bank 3"),
    (10, "parity error in data tag bank 0"),
    (11, "parity error in data tag bank 1"),
    (12, "parity error in data tag bank 2"),
    (13, "parity error in data tag bank 3"),
    (14, "parity error in the dirty-data RAM"),
    (15, "parity error in TLB bank 0"),
    (16, "parity error in TLB bank 1"),
    (17, "ECC or parity error in the system hub's read buffer"),
    (18, "ECC or parity error in the fuse SRAM"),
    (19, "ECC or parity error in the PCRU's fuse SRAM"),
    (20, "parity error in the SIB SRAM"),
    (21, "mpASP SECEMC error"),
    (22, "mpASP A5 core hangs"),
    (23, "watchdog timeout of the SIB"),
];

/// `MCA_STATUS_SMU`, Zen and Zen+.
pub(super) const SMU: &Codes = &[(0, "ECC or parity error in a RAM")];

/// `MCA_STATUS_SMU`, Zen 2 and later. Codes from 58 on are of processors with graphics.
pub(super) const SMU_V2: &Codes = &[
    (0, "ECC or parity error in the high SRAM"),
    (1, "ECC or parity error in the low SRAM"),
    (2, "ECC or parity error in data cache bank A"),
    (3, "ECC or parity error in data cache bank B"),
    (4, "ECC or parity error in data tag bank A"),
    (5, "ECC or parity error in data tag bank B"),
    (6, "ECC or parity error in instruction cache bank A"),
    (7, "ECC or parity error in instruction cache bank B"),
    (8, "ECC or parity error in instruction tag bank A"),
    (9, "ECC or parity error in instruction tag bank B"),
    (10, "ECC or parity error in the system hub's read buffer"),
    (11, "ECC error of the PHY"),
    (58, "corrected error in a part of the graphics processor"),
    (59, "fatal error in a part of the graphics processor"),
    (62, "poison in a part of the graphics processor"),
];

/// `MCA_STATUS_MP5`.
pub(super) const MP5: &Codes = &[
    (0, "ECC or parity error in the high SRAM"),
    (1, "ECC or parity error in the low SRAM"),
    (2, "ECC or parity error in data cache bank A"),
    (3, "ECC or parity error in data cache bank B"),
    (4, "ECC or parity error in data tag bank A"),
    (5, "ECC or parity error in data tag bank B"),
    (6, "ECC or parity error in instruction cache bank A"),
    (7, "ECC or parity error in instruction cache bank B"),
    (8, "ECC or parity error in instruction tag bank A"),
    (9, "ECC or parity error in instruction tag bank B"),
    (10, "ECC or parity error in the fuse SRAM"),
];

/// `MCA_STATUS_MPDMA`. The caches appear once for each of its three processors.
pub(super) const MPDMA: &Codes = &[
    (0, "ECC or parity error in main SRAM bits 31:0"),
    (1, "ECC or parity error in main SRAM bits 63:32"),
    (2, "ECC or parity error in main SRAM bits 95:64"),
    (3, "ECC or parity error in main SRAM bits 127:96"),
    (4, "ECC or parity error in data cache bank A"),
    (5, "ECC or parity error in data cache bank B"),
    (6, "ECC or parity error in data tag bank A"),
    (7, "ECC or parity error in data tag bank B"),
    (8, "ECC or parity error in instruction cache bank A"),
    (9, "ECC or parity error in instruction cache bank B"),
    (10, "ECC or parity error in instruction tag bank A"),
    (11, "ECC or parity error in instruction tag bank B"),
    (12, "ECC or parity error in data cache bank A"),
    (13, "ECC or parity error in data cache bank B"),
    (14, "ECC or parity error in data tag bank A"),
    (15, "ECC or parity error in data tag bank B"),
    (16, "ECC or parity error in instruction cache bank A"),
    (17, "ECC or parity error in instruction cache bank B"),
    (18, "ECC or parity error in instruction tag bank A"),
    (19, "ECC or parity error in instruction tag bank B"),
    (20, "ECC or parity error in data cache bank A"),
    (21, "ECC or parity error in data cache bank B"),
    (22, "ECC or parity error in data tag bank A"),
    (23, "ECC or parity error in data tag bank B"),
    (24, "ECC or parity error in instruction cache bank A"),
    (25, "ECC or parity error in instruction cache bank B"),
    (26, "ECC or parity error in instruction tag bank A"),
    (27, "ECC or parity error in instruction tag bank B"),
    (28, "ECC or parity error in the system hub's read buffer"),
    (29, "ECC or parity error in the TVF's DVSEC memory"),
    (30, "ECC or parity error in the TVF's MMIO mailbox 0"),
    (31, "ECC or parity error in the TVF's MMIO mailbox 1"),
    (32, "ECC or parity error in the TVF's doorbell memory"),
    (33, "ECC or parity error in the TVF's SDP target memory 0"),
    (34, "ECC or parity error in the TVF's SDP target memory 1"),
    (35, "ECC or parity error in the TVF's SDP target memory 2"),
    (36, "ECC or parity error in the TVF's SDP source memory 0"),
    (37, "ECC or parity error in the TVF's SDP source memory 1"),
    (38, "ECC or parity error in the TVF's SDP source memory 2"),
    (39, "ECC or parity error in the TVF's SDP source memory 3"),
    (40, "ECC or parity error in the TVF's SDP source memory 4"),
    (41, "ECC or parity error in the TVF's SDP source memory 5"),
    (42, "ECC or parity error in the TVF's SDP source memory 6"),
    (43, "watchdog timeout on the SDP"),
    (44, "ECC or parity error in the PTE's command FIFO"),
    (45, "ECC or parity error in the PTE's hub data FIFO"),
    (46, "ECC or parity error in the PTE's internal data FIFO"),
    (47, "ECC or parity error in the PTE's command memory, DMA"),
    (48, "ECC or parity error in the PTE's command memory, internal"),
    (49, "ECC or parity error in the TVF's SDP source memory 7"),
];

/// `MCA_STATUS_NBIO`.
pub(super) const NBIO: &Codes = &[
    (0, "ECC or parity error"),
    (1, "error of PCI Express"),
    (2, "external SDP error event"),
    (3, "poison leaves by the SDP"),
    (4, "internal poison"),
    (5, "internal fatal event"),
];

/// `MCA_STATUS_PCIE`, first version.
pub(super) const PCIE: &Codes = &[
    (0, "CCIX protocol error message logged"),
    (1, "CCIX read response: non-data error"),
    (2, "CCIX write response: non-data error"),
    (3, "CCIX read response: data error"),
    (4, "CCIX write response not accepted, with data error"),
];

/// `MCA_STATUS_PCIE`, second version.
pub(super) const PCIE_V2: &Codes = &[(0, "SDP data parity error")];

/// `MCA_STATUS_PCS_XGMI`.
pub(super) const XGMI_PCS: &Codes = &[
    (0, "data lost"),
    (1, "training failed"),
    (2, "flow control acknowledgement error"),
    (3, "receive FIFO underflow"),
    (4, "receive FIFO overflow"),
    (5, "CRC error"),
    (6, "bit error rate exceeded"),
    (7, "transmit virtual channel data error"),
    (8, "parity error in the replay buffer"),
    (9, "data parity error"),
    (10, "replay FIFO overflow"),
    (11, "replay FIFO underflow"),
    (12, "elastic FIFO overflow"),
    (13, "lanes could not be aligned (deskew)"),
    (14, "CRC error in flow control"),
    (15, "data startup limit reached"),
    (16, "flow control initialization timed out"),
    (17, "recovery timed out"),
    (18, "serial ready timed out"),
    (19, "serial ready attempts used up"),
    (20, "recovery attempts used up"),
    (21, "relock attempts in recovery used up"),
    (22, "replay attempts used up"),
    (23, "bad sync header"),
    (24, "transmit replay timed out"),
    (25, "receive replay timed out"),
    (26, "transmit link subsystem timed out"),
    (27, "receive link subsystem timed out"),
    (28, "bad command packet received"),
];

/// `MCA_STATUS_PCS_GMI`.
pub(super) const GMI_PCS: &Codes = &[
    (0, "data lost"),
    (1, "training failed"),
    (2, "replay parity error"),
    (3, "receive FIFO underflow"),
    (4, "receive FIFO overflow"),
    (5, "CRC error"),
    (6, "bit error rate exceeded"),
    (7, "transmit FIFO underflow"),
    (8, "parity error in the replay buffer"),
    (9, "transmit overflow"),
    (10, "replay FIFO overflow"),
    (11, "replay FIFO underflow"),
    (12, "elastic FIFO overflow"),
    (13, "lanes could not be aligned (deskew)"),
    (14, "link offline"),
    (15, "data startup limit reached"),
    (16, "flow control initialization timed out"),
    (17, "recovery timed out"),
    (18, "serial ready timed out"),
    (19, "serial ready attempts used up"),
    (20, "recovery attempts used up"),
    (21, "relock attempts in recovery used up"),
    (22, "deskew aborted"),
    (23, "receive buffer error"),
    (24, "receive LFDS FIFO overflow"),
    (25, "receive LFDS FIFO underflow"),
    (26, "transmit link subsystem timed out"),
    (27, "receive link subsystem timed out"),
    (28, "bad command packet received"),
    (29, "LFDS training timed out"),
    (30, "LFDS flow control initialization timed out"),
    (31, "data lost"),
];

/// `MCA_STATUS_PHY` of GMI, xGMI and WAFL links: the same for all of them.
pub(super) const PHY: &Codes = &[
    (0, "RAM ECC error"),
    (1, "parity error in the ARC instruction buffer"),
    (2, "parity error in the ARC data buffer"),
    (3, "peripheral bus (APB) error"),
];

/// `MCA_STATUS_NBIF` and `MCA_STATUS_SHUB`: the same for both.
pub(super) const NBIF: &Codes = &[
    (0, "timeout from the GMI"),
    (1, "SRAM ECC error"),
    (2, "error event of the non-transparent bridge"),
    (3, "SDP parity error"),
];

/// `MCA_STATUS_SATA`.
pub(super) const SATA: &Codes = &[
    (0, "parity error on port 0"),
    (1, "parity error on port 1"),
    (2, "parity error on port 2"),
    (3, "parity error on port 3"),
    (4, "parity error on port 4"),
    (5, "parity error on port 5"),
    (6, "parity error on port 6"),
    (7, "parity error on port 7"),
];

/// `MCA_STATUS_USB`.
pub(super) const USB: &Codes = &[
    (0, "parity or ECC error in S0 RAM 0"),
    (1, "parity or ECC error in S0 RAM 1"),
    (2, "parity or ECC error in S0 RAM 2"),
    (3, "parity error in PHY RAM 0"),
    (4, "parity error in PHY RAM 1"),
    (5, "AXI target answered with an error"),
];

/// `MCA_STATUS_USR_DP`.
pub(super) const USR_DP: &Codes = &[
    (0, "MST command error"),
    (1, "MST receive FIFO error"),
    (2, "MST deskew error"),
    (3, "MST detection timed out"),
    (4, "MST flow control error"),
    (5, "MST data-valid FIFO error"),
    (6, "MAC link state error"),
    (7, "lanes could not be aligned (deskew)"),
    (8, "initialization timed out"),
    (9, "initialization attempts used up"),
    (10, "recovery timed out"),
    (11, "recovery attempts used up"),
    (12, "eye training timed out"),
    (13, "data startup limit reached"),
    (14, "LS0 exit error"),
    (15, "PLL power state update timed out"),
    (16, "receive FIFO error"),
    (17, "LCU error"),
    (18, "conversion: corrected ECC error"),
    (19, "conversion: uncorrected ECC error"),
    (21, "received data lost"),
    (22, "replay: corrected ECC error"),
    (23, "replay: uncorrected ECC error"),
    (24, "CRC error"),
    (25, "bit error rate exceeded"),
    (26, "flow control initialization timed out"),
    (27, "flow control initialization attempts used up"),
    (28, "replay timed out"),
    (29, "replay attempts used up"),
    (30, "replay underflow"),
    (31, "replay overflow"),
];

/// `MCA_STATUS_USR_CP`.
pub(super) const USR_CP: &Codes = &[
    (0, "bad packet type"),
    (1, "receive FIFO error"),
    (2, "lanes could not be aligned (deskew)"),
    (3, "receiver detection timed out"),
    (4, "data parity error"),
    (5, "data lost"),
    (6, "LCU error"),
    (7, "HB1 handshake timed out"),
    (8, "HB2 handshake timed out"),
    (9, "clock sleep was not answered in time"),
    (10, "clock wake was not answered in time"),
    (11, "reset attack"),
    (12, "fatal error at the link's other end"),
];
