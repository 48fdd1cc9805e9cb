//! Compressed streams, known by their first bytes: gzip, xz, zstd, bzip2. Each may have several
//! members.

use std::error::Error;
use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::Watched;

/// Longest of the first bytes below.
pub(super) const MAGIC_MAX: usize = 6;

/// Most memory a decompressor may take for what a stream refers back to, in bytes: what `xz -9` and
/// `zstd --ultra -22` ask for. A stream that claims more is a problem, not an allocation.
const WINDOW_MAX: u32 = 128 << 20;

/// One kind of compression.
pub(super) struct Layer {
    pub(super) name: &'static str,
    magic: &'static [u8],
    pub(super) open: fn(Watched) -> Box<dyn Read + Send>,
}

const LAYERS: &[Layer] = &[
    // RFC 1952, "Member header": deflate is the only method there is.
    Layer {
        name: "gzip",
        magic: &[0x1f, 0x8b, 8],
        open: |input| Box::new(flate2::bufread::MultiGzDecoder::new(input)),
    },
    Layer {
        name: "xz",
        magic: &[0xfd, b'7', b'z', b'X', b'Z', 0],
        open: |input| Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, WINDOW_MAX / 1024)),
    },
    // RFC 8878, "Zstandard Frames".
    Layer { name: "zstd", magic: &ZSTD, open: |input| Box::new(Zstd::new(input)) },
    Layer {
        name: "bzip2",
        magic: b"BZh",
        open: |input| Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    },
];

impl Layer {
    /// The compression of a stream that starts like this.
    pub(super) fn of(start: &[u8]) -> Option<&'static Self> {
        LAYERS.iter().find(|layer| start.starts_with(layer.magic))
    }
}

const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// Zstandard frames that follow one another; frames that only carry data for others are skipped.
struct Zstd {
    input: Watched,
    decoder: Box<FrameDecoder>,
    inside: bool,
}

impl Zstd {
    fn new(input: Watched) -> Self {
        let mut decoder = Box::new(FrameDecoder::new());
        decoder.set_max_window_size(WINDOW_MAX.into());
        Self { input, decoder, inside: false }
    }

    /// At the start of a frame.
    fn begin(&mut self) -> io::Result<()> {
        let mut magic = [0; 4];
        self.input.read_exact(&mut magic)?;
        // RFC 8878, "Skippable Frames".
        if u32::from_le_bytes(magic) & 0xffff_fff0 == 0x184d_2a50 {
            let mut length = [0; 4];
            self.input.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut (&mut self.input).take(length), &mut io::sink())? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok(());
        }
        if magic != ZSTD {
            return Err(malformed("what follows a frame is none"));
        }
        self.decoder.init(magic.chain(&mut self.input)).map_err(zstd_error)?;
        self.inside = true;
        Ok(())
    }

    /// Behind the last block of a frame.
    fn end(&mut self) -> io::Result<()> {
        self.inside = false;
        let stored = self.decoder.get_checksum_from_data();
        if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
            return Err(malformed("wrong checksum"));
        }
        Ok(())
    }
}

impl Read for Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside {
                if self.input.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
            } else if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            } else if self.decoder.is_finished() {
                self.end()?;
            } else {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.input, one).map_err(zstd_error)?;
            }
        }
    }
}

/// The end of the input, wherever in its causes it is, is told apart from damage.
fn zstd_error(error: FrameDecoderError) -> io::Error {
    let first: &(dyn Error + 'static) = &error;
    let causes = std::iter::successors(Some(first), |error| (*error).source());
    let kind = causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind)
        .find(|kind| *kind == io::ErrorKind::UnexpectedEof);
    match kind {
        Some(kind) => io::Error::new(kind, "it ends inside of a frame"),
        None => malformed(&error.to_string()),
    }
}

fn malformed(detail: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.to_owned())
}
