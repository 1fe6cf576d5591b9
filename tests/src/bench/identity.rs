//! Which program was measured: what it says of its version is the same for many builds, its bytes are not.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use super::machine::said;
use crate::Result;

const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct Build {
    pub path: PathBuf,
    /// As `--version` says.
    pub version: String,
    pub sha256: String,
    file: (u64, SystemTime),
}

impl Build {
    pub fn of(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let path = path.canonicalize().map_err(failed)?;
        Ok(Self {
            version: said(&path, &["--version"]).ok_or_else(|| format!("{} --version fails", path.display()))?,
            sha256: sha256(&path).map_err(failed)?,
            file: file(&path).map_err(failed)?,
            path,
        })
    }

    /// Nobody built it anew while it was measured: every process is started from this file.
    pub fn is_still_there(&self) -> bool {
        file(&self.path).is_ok_and(|file| file == self.file)
    }
}

fn file(path: &Path) -> std::io::Result<(u64, SystemTime)> {
    let data = path.metadata()?;
    Ok((data.len(), data.modified()?))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => hasher.update(&chunk[..n]),
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_known_by_its_bytes_and_another_in_its_place_is_noticed() {
        let path = std::env::temp_dir().join(format!("steadfast_{}", crate::unique()));
        std::fs::write(&path, "abc").unwrap();
        // Of FIPS 180.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), abc);
        let build = Build {
            version: String::new(),
            sha256: abc.into(),
            file: file(&path).unwrap(),
            path: path.clone(),
        };
        assert!(build.is_still_there());
        std::fs::write(&path, "another").unwrap();
        assert!(!build.is_still_there());
        std::fs::remove_file(&path).unwrap();
        assert!(!build.is_still_there() && Build::of(&path).is_err());
    }
}
