//! Hard links in a chunk: which of its entries are names of one file. Most chunks have none, and pay nothing for it.

use super::{REGULAR, SYMLINK, u32_at};

/// An entry that is one of several names: its index in the chunk, and the number of its group.
pub type Link = (u32, u32);

const LINK: usize = 8;

/// Appends one.
pub fn write(link: Link, out: &mut Vec<u8>) {
    out.extend_from_slice(&link.0.to_le_bytes());
    out.extend_from_slice(&link.1.to_le_bytes());
}

/// Those of a chunk whose entries are of these kinds. What a group's number may be, the chunks before it decide.
pub fn parse_untrusted(data: &[u8], kinds: &[u8]) -> Result<Vec<Link>, &'static str> {
    if data.is_empty() || !data.len().is_multiple_of(LINK) {
        return Err("a file-list chunk whose columns do not fill it");
    }
    let links: Vec<Link> = (0..data.len())
        .step_by(LINK)
        .map(|at| (u32_at(data, at), u32_at(data, at + 4)))
        .collect();
    if links.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err("hard links out of order");
    }
    let linkable = |&(i, _): &Link| matches!(kinds.get(i as usize), Some(&(REGULAR | SYMLINK)));
    if !links.iter().all(linkable) {
        return Err("a hard link that is neither a file nor a symlink");
    }
    Ok(links)
}
