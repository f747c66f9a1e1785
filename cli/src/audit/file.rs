//! Small files that a person names.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::failure::Failure;

/// Reads a file for a flag, within a bound.
pub(super) fn read(flag: &str, path: &Path, most: u64) -> Result<String, Failure> {
    let wrong = |problem: String| Failure::usage(format!("{flag} {}: {problem}", path.display()));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(most + 1).read_to_string(&mut text))
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => wrong("it is not UTF-8 text".to_owned()),
            _ => wrong(format!(
                "{error}; check that the file exists and that this user may read it"
            )),
        })?;
    if text.len() as u64 > most {
        return Err(wrong(format!(
            "it is larger than {} MiB: is it the right file?",
            most >> 20
        )));
    }
    Ok(text)
}
