//! The read models there are.

pub mod run_list;
pub mod sessions;
pub mod usage;

pub use run_list::RunList;
pub use sessions::Sessions;
pub use usage::UsageByDay;

use crate::projection::Projection;

/// Every projection of this build.
pub fn all() -> Vec<&'static dyn Projection> {
    vec![&RunList, &Sessions, &UsageByDay]
}

/// The projection of this name, or an error that lists the names there are.
pub fn by_name(name: &str) -> Result<&'static dyn Projection, steadfast::store::Error> {
    all()
        .into_iter()
        .find(|projection| projection.name() == name)
        .ok_or_else(|| {
            let names: Vec<_> = all().iter().map(|projection| projection.name()).collect();
            steadfast::store::Error::Refused(format!(
                "there is no projection {name:?}; there are: {}",
                names.join(", ")
            ))
        })
}
