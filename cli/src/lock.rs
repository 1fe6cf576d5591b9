//! One process for each data directory: SQLite would survive two, but each would take the other for dead.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use crate::error::{Context, Failure};

/// Held as long as the value lives; the kernel lets go of it when the process dies, however it dies.
pub struct DataDirLock(#[expect(dead_code, reason = "held for its drop")] File);

impl DataDirLock {
    pub fn take(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        fs::create_dir_all(dir).context(format!("cannot create the data directory {shown}"))?;
        let path = dir.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.context(format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
                "another `steadfast dev` is using {shown}; stop it, or give this one a --data-dir of its own"
            ))),
            Err(TryLockError::Error(error)) => Err(error).context(format!("cannot lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_owner_at_a_time() {
        let dir = std::env::temp_dir().join(format!("steadfast-lock-{}", std::process::id()));
        let first = DataDirLock::take(&dir);
        assert!(first.is_ok());
        let refused = DataDirLock::take(&dir).err().map(|failure| failure.to_string());
        assert!(refused.is_some_and(|said| said.contains("--data-dir")));
        drop(first);
        assert!(DataDirLock::take(&dir).is_ok());
        fs::remove_dir_all(&dir).expect("the directory was made above");
    }
}
