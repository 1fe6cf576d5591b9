use std::time::Instant;
use steadfast_protocol::{explore::{explore, count, Protocol, Report}, ownership::{self, Ownership}, projection::{self, Projection}, stream::{self, Stream}};
fn main() {
    let k = std::env::args().nth(1).unwrap();
    let a: Vec<u8> = std::env::args().skip(2).map(|a| a.parse().unwrap()).collect();
    fn show(label: String, r: Report, t: Instant) {
        println!("{label}: {} states {:?}", r.states, t.elapsed());
        for (p, w) in &r.broken { println!("   {p}\n     {}", w.join(" ")); }
    }
    fn go<M: Protocol + Clone>(m: M) { let t = Instant::now(); show("real".into(), explore(&m, None), t); }
    match k.as_str() {
        "o" => {
            let m = Ownership { workers: a[0], runs: a[1], faults: a[2], attempts_max: a[3], cancels: a[4] == 1, mutant: None };
            go(m.clone());
            if a.len() > 5 { for (mutant, p) in ownership::Mutant::ALL { let t = Instant::now(); show(format!("{mutant:?} {p}"), explore(&Ownership{mutant: Some(mutant), ..m.clone()}, Some(p)), t); } }
        }
        "p" => {
            let m = Projection { projectors: a[0] as usize, faults: a[1], writes: a[3..].to_vec(), mutant: None };
            go(m.clone());
            if a[2] > 0 { for (mutant, p) in projection::Mutant::ALL { let t = Instant::now(); show(format!("{mutant:?} {p}"), explore(&Projection{mutant: Some(mutant), ..m.clone()}, Some(p)), t); } }
        }
        _ => {
            let m = Stream { attempts: a[0], pieces: a[1], inputs: a[2], faults: a[3], mutant: None };
            go(m.clone());
            if a.len() > 4 { for (mutant, p) in stream::Mutant::ALL { let t = Instant::now(); show(format!("{mutant:?} {p}"), explore(&Stream{mutant: Some(mutant), ..m.clone()}, Some(p)), t); } }
        }
    }
    let _ = count::<Projection>;
}
