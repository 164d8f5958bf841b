//! Narrow seams for property tests of the crate's pure parts, as `_core._selftest`.

use pyo3::IntoPyObjectExt;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::compress;
use crate::delta::{ApplyError, Matcher, apply_untrusted};
use crate::filter::Filter;
use crate::piece::{self, PIECE};
use crate::rolling::{self, Rolling};
use crate::signature::{self, Signature, SignatureBuilder};

/// Runs one part of the crate on `data`; `extra` holds its other arguments by name.
///
/// - "openat2": on -> whether openat2 was tried before a component walk
/// - "filter": patterns, paths [(path, is a directory)] -> whether each is excluded
/// - "weak": -> the weak sum; "roll": length -> the weak sums of all windows of that length
/// - "hash": -> BLAKE3, by pieces and merged where the data is longer than one
/// - "chaining-value": piece, size -> of `data` as that piece of a file of that size
/// - "block-len": size -> block length of a signature
/// - "pack": level -> `data` as a packed payload, or None where that saves nothing
/// - "unpack": -> what a payload holds, packed or not
/// - "delta": basis, block_len, piece -> [(tokens, literal, matched, wasted)] for the pieces of `data`
/// - "apply": basis, length -> what the tokens in `data` make
/// - "sign": block_len, blocks -> BASIS payloads of `data` as basis, each of so many blocks
/// - "parts": payloads -> (basis size, block length, sums) of the signature, or None when a part is missing
/// - "pieces": pieces -> what a BASIS payload says that a partial holds
#[pyfunction]
#[pyo3(name = "_selftest")]
pub fn selftest<'py>(
    py: Python<'py>,
    what: &str,
    data: &Bound<'py, PyAny>,
    extra: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    let data = PyBuffer::<u8>::get(data)?.to_vec(py)?;
    match what {
        "openat2" => crate::beneath::use_openat2(argument(extra, "on")?).into_bound_py_any(py),
        "filter" => {
            let filter = Filter::new(&argument::<Vec<Vec<u8>>>(extra, "patterns")?)
                .map_err(|error| PyValueError::new_err(error.message()))?;
            let paths: Vec<(Vec<u8>, bool)> = argument(extra, "paths")?;
            let excluded: Vec<bool> = paths
                .iter()
                .map(|(path, is_dir)| filter.excludes(path, *is_dir))
                .collect();
            excluded.into_pyobject(py)
        }
        "weak" => Ok(rolling::weak(&data).into_pyobject(py)?.into_any()),
        "roll" => windows(&data, argument(extra, "length")?).into_pyobject(py),
        "hash" => Ok(PyBytes::new(py, &hash(&data)).into_any()),
        "chaining-value" => {
            let value = piece::chaining_value(&data, argument(extra, "piece")?, argument(extra, "size")?);
            Ok(PyBytes::new(py, &value).into_any())
        }
        "block-len" => Ok(signature::block_len(argument(extra, "size")?)
            .into_pyobject(py)?
            .into_any()),
        "pack" => {
            let packed = compress::pack(&data, 0, 0, argument(extra, "level")?);
            packed.map(|packed| PyBytes::new(py, &packed)).into_bound_py_any(py)
        }
        "unpack" => {
            let header = compress::header_untrusted(&data).map_err(PyValueError::new_err)?;
            let raw = header.map_or(Ok(data.clone()), |header| compress::unpack_untrusted(&data, &header));
            Ok(PyBytes::new(py, &raw.map_err(PyValueError::new_err)?).into_any())
        }
        "delta" => {
            let basis: Vec<u8> = argument(extra, "basis")?;
            let signature = Signature::of(&basis, argument(extra, "block_len")?);
            let deltas = delta(signature, &data, argument(extra, "piece")?);
            let deltas = deltas.into_iter().map(|(tokens, stats)| {
                (
                    PyBytes::new(py, &tokens).unbind(),
                    stats.literal,
                    stats.matched,
                    stats.wasted,
                )
            });
            deltas.collect::<Vec<_>>().into_pyobject(py)
        }
        "apply" => {
            let basis: Vec<u8> = argument(extra, "basis")?;
            let mut out = vec![0; argument(extra, "length")?];
            let read = |offset: u64, buffer: &mut [u8]| {
                let begin = offset as usize;
                buffer.copy_from_slice(&basis[begin..begin + buffer.len()]);
                Ok(())
            };
            match apply_untrusted(&data, basis.len() as u64, read, &mut out, &mut Vec::new()) {
                Ok(_) => Ok(PyBytes::new(py, &out).into_any()),
                Err(ApplyError::Violation(how)) => Err(PyValueError::new_err(how)),
                Err(ApplyError::Io(error)) => Err(error.into()),
            }
        }
        "sign" => {
            let parts = parts(&data, argument(extra, "block_len")?, argument(extra, "blocks")?);
            parts
                .into_iter()
                .map(|part| PyBytes::new(py, &part).unbind())
                .collect::<Vec<_>>()
                .into_pyobject(py)
        }
        "parts" => {
            let mut builder = SignatureBuilder::new();
            let mut whole = false;
            for part in argument::<Vec<Vec<u8>>>(extra, "payloads")? {
                whole = builder.part_untrusted(&part).map_err(PyValueError::new_err)?;
            }
            let whole = whole.then(|| builder.into_signature());
            let whole = whole.map(|whole| (whole.basis_size, whole.block_len, whole.weak.len()));
            Ok(whole.into_pyobject(py)?.into_any())
        }
        "pieces" => {
            let pieces = signature::pieces_untrusted(&data, argument(extra, "pieces")?);
            pieces.map_err(PyValueError::new_err)?.into_pyobject(py)
        }
        _ => Err(PyKeyError::new_err(what.to_owned())),
    }
}

fn argument<'py, T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(
    extra: &Bound<'py, PyDict>,
    name: &'static str,
) -> PyResult<T> {
    extra
        .get_item(name)?
        .ok_or_else(|| PyKeyError::new_err(name))?
        .extract()
}

fn windows(data: &[u8], length: usize) -> Vec<u32> {
    let Some(first) = data.get(..length) else {
        return Vec::new();
    };
    let mut rolling = Rolling::new(rolling::weak(first), length as u32);
    let mut sums = vec![rolling.weak()];
    for (&leaving, &entering) in data.iter().zip(&data[length..]) {
        rolling.roll(leaving, entering);
        sums.push(rolling.weak());
    }
    sums
}

fn hash(data: &[u8]) -> [u8; 32] {
    if data.len() <= PIECE {
        return piece::hash(data);
    }
    let size = data.len() as u64;
    let pieces = piece::count(size) as u32;
    let mut subtrees = piece::Subtrees::default();
    for (n, piece) in (0..).zip(data.chunks(PIECE)) {
        subtrees.add(n, piece::chaining_value(piece, n, size), pieces);
    }
    subtrees.file_hash(size)
}

fn delta(signature: Signature, new: &[u8], piece: usize) -> Vec<(Vec<u8>, crate::delta::Stats)> {
    let block_len = signature.block_len;
    let ahead = block_len as usize - 1;
    let mut matcher = Matcher::new(signature);
    let piece = piece.max(1);
    let one = |n: usize| {
        let (begin, end) = (n * piece, new.len().min((n + 1) * piece));
        let mut tokens = Vec::new();
        let lookahead = &new[end..new.len().min(end + ahead)];
        let own = if begin.is_multiple_of(block_len as usize) {
            signature::values(&new[begin..end], begin as u64, block_len)
        } else {
            Vec::new()
        };
        let stats = matcher.piece(&new[begin..end], begin as u64, &own, lookahead, &mut tokens);
        (tokens, stats)
    };
    (0..new.len().div_ceil(piece)).map(one).collect()
}

fn parts(basis: &[u8], block_len: u32, blocks: usize) -> Vec<Vec<u8>> {
    let blocks = blocks.max(1);
    let whole = Signature {
        basis_size: basis.len() as u64,
        block_len,
        ..Signature::default()
    };
    let (weak, values) = signature::sign(basis, 0, block_len);
    let count = weak.len().div_ceil(blocks).max(1);
    let part = |n: usize| {
        let (begin, end) = (n * blocks, weak.len().min((n + 1) * blocks));
        let mut out = Vec::new();
        let (weak, values) = (&weak[begin..end], &values[begin..end]);
        signature::encode_part((1, 2), &whole, begin as u32, weak, values, n + 1 == count, &mut out);
        out
    };
    (0..count).map(part).collect()
}
