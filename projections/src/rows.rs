//! Many rows in one statement.

use steadfast::store::{
    Error,
    sql::{Row, Tx, Value},
};

/// Rows are written in groups of a power of two up to this, so few different statements exist and both databases
/// keep them prepared. The widest table has 17 columns: well under SQLite's 32,766 parameters.
const GROUP_ROWS_MAX: usize = 256;

/// `insert into {target} values (…), (…) {tail}`; `target` names the table and its columns.
pub async fn insert(tx: &mut Tx, target: &str, tail: &str, rows: Vec<Vec<Value>>) -> Result<(), Error> {
    for group in groups(rows) {
        let sql = format!("insert into {target} values {} {tail}", values(tx, &group));
        tx.execute(&sql, &flat(group)).await?;
    }
    Ok(())
}

/// `{head} (values (…), (…)) as k {tail}`: rows found by many keys at once. To SQL the keys are `k.column1`, `k.column2`, …
pub async fn fetch_by(tx: &mut Tx, head: &str, tail: &str, keys: Vec<Vec<Value>>) -> Result<Vec<Row>, Error> {
    let mut found = Vec::with_capacity(keys.len());
    for group in groups(keys) {
        let sql = format!("{head} (values {}) as k {tail}", values(tx, &group));
        found.append(&mut tx.fetch(&sql, &flat(group)).await?);
    }
    Ok(found)
}

fn groups(rows: Vec<Vec<Value>>) -> impl Iterator<Item = Vec<Vec<Value>>> {
    let mut rest = rows.into_iter();
    std::iter::from_fn(move || {
        let size = (1 << rest.len().checked_ilog2()?).min(GROUP_ROWS_MAX);
        Some(rest.by_ref().take(size).collect())
    })
}

fn flat(group: Vec<Vec<Value>>) -> Vec<Value> {
    group.into_iter().flatten().collect()
}

fn values(tx: &Tx, group: &[Vec<Value>]) -> String {
    match tx {
        Tx::Postgres(_) => places(group, |number| format!("${number}")),
        // Not by number: SQLite keeps numbered ones in a list that it searches once for each of them.
        Tx::Sqlite(..) => places(group, |_| "?".into()),
    }
}

fn places(group: &[Vec<Value>], place: impl Fn(usize) -> String) -> String {
    let mut sql = String::new();
    let mut number = 0;
    for row in group {
        sql.push_str(if number == 0 { "(" } else { ", (" });
        for column in 0..row.len() {
            number += 1;
            if column > 0 {
                sql.push(',');
            }
            sql.push_str(&place(number));
        }
        sql.push(')');
    }
    sql
}

/// Postgres refuses the character NUL in text.
pub fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_by_powers_of_two_and_none_is_left_out() {
        let rows: Vec<Vec<Value>> = (0..603i64).map(|n| vec![n.into()]).collect();
        let sizes: Vec<usize> = groups(rows.clone()).map(|group| group.len()).collect();
        assert_eq!(sizes, [256, 256, 64, 16, 8, 2, 1]);
        assert_eq!(groups(rows.clone()).flatten().collect::<Vec<_>>(), rows);
        assert_eq!(
            places(
                &[vec![1i64.into(), 2i64.into()], vec![3i64.into(), 4i64.into()]],
                |n| format!("${n}")
            ),
            "($1,$2), ($3,$4)"
        );
    }
}
