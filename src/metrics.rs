//! Every metric Steadfast exports, in one place: one name for each thing, no label without a bound.
//!
//! Names follow the OpenTelemetry GenAI conventions rendered for Prometheus where they have one, `steadfast_…`
//! otherwise. Never a run, a session or a user as a label.

use std::sync::OnceLock;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::Collector,
};

use crate::run::BudgetLimit;

fn register<C: Collector + Clone + 'static>(metric: Result<C, prometheus::Error>) -> C {
    let metric = metric.expect("metric names and labels are constants of this file");
    // Fails only for a name registered before; the tests below register each once.
    let _ = prometheus::default_registry().register(Box::new(metric.clone()));
    metric
}

fn counter(name: &str, help: &str) -> IntCounter {
    register(IntCounter::new(name, help))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(name: &str, help: &str) -> IntGauge {
    register(IntGauge::new(name, help))
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn seconds(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(Histogram::with_opts(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
    ))
}

fn histograms(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    register(HistogramVec::new(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        labels,
    ))
}

const FAST: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The GenAI conventions' buckets of an operation.
const OPERATION: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
const RUN: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
];
const COUNT: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];

macro_rules! family {
    ($(#[doc = $doc:literal])* $fn:ident, $struct:ident { $($field:ident: $ty:ty = $make:expr;)* }) => {
        $(#[doc = $doc])*
        pub struct $struct { $(pub $field: $ty,)* }
        $(#[doc = $doc])*
        pub fn $fn() -> &'static $struct {
            static METRICS: OnceLock<$struct> = OnceLock::new();
            METRICS.get_or_init(|| $struct { $($field: $make,)* })
        }
    };
}

family! {
    /// The append path.
    store, StoreMetrics {
        append_batch: Histogram = seconds("steadfast_append_batch_size", "Appends that shared a commit.", COUNT);
        append_seconds: Histogram = seconds("steadfast_append_duration_seconds", "Time to commit a batch of appends.", FAST);
        append_errors: IntCounter = counter("steadfast_append_errors_total", "Batches whose commit failed or stayed unknown.");
        append_conflicts: IntCounter = counter("steadfast_append_conflicts_total", "Appends that lost to another writer.");
    }
}

family! {
    /// Runs and the workers that advance them.
    runs, RunMetrics {
        accepted: IntCounterVec = counters("steadfast_runs_accepted_total", "Runs accepted by a gateway.", &["agent"]);
        ended: IntCounterVec = counters("steadfast_runs_total", "Runs that ended, by how.", &["agent", "status"]);
        duration: HistogramVec = histograms("steadfast_run_duration_seconds", "From request to end.", &["agent"], RUN);
        queue_wait: Histogram = seconds("steadfast_run_queue_wait_seconds", "From request to the first claim.", RUN);
        in_progress: IntGauge = gauge("steadfast_runs_in_progress", "Runs this worker is executing now.");
        slots: IntGauge = gauge("steadfast_worker_slots", "Runs this worker may execute at the same time.");
        claims: IntCounterVec = counters("steadfast_claims_total", "Tries to claim a run.", &["outcome"]);
        deliveries: IntCounterVec = counters("steadfast_deliveries_total", "Commands that came to this worker, by what came of them.", &["outcome"]);
        takeovers: IntCounter = counter("steadfast_takeovers_total", "Claims of a run another worker had started.");
        interrupted: IntCounter = counter("steadfast_runs_interrupted_total", "Executions of a run that panicked.");
        approvals: IntCounterVec = counters("steadfast_approvals_requested_total", "Questions put to people, by what about.", &["about"]);
        budget_exceeded: IntCounterVec = counters("steadfast_budget_exceeded_total", "Times a run had to wait for a larger budget.", &["limit"]);
        fenced: IntCounter = counter("steadfast_fenced_appends_total", "Appends refused because the run had a newer claim.");
        stuck: IntCounter = counter("steadfast_runs_stuck_total", "Times a run could not go on because the log, or its own outcome, forbade it.");
        left_to_newer: IntCounter = counter("steadfast_runs_left_to_newer_total", "Times a run was left alone because a newer build has written to it.");
        redriven: IntCounter = counter("steadfast_redriven_total", "Commands published by the redriver.");
    }
}

family! {
    /// Model calls.
    model, ModelMetrics {
        duration: HistogramVec = histograms("gen_ai_client_operation_duration_seconds", "Time of a model call.",
            &["gen_ai_operation_name", "gen_ai_request_model", "error_type"], OPERATION);
        first_chunk: HistogramVec = histograms("gen_ai_client_operation_time_to_first_chunk_seconds",
            "Time to the first chunk of a model's answer.", &["gen_ai_request_model"], OPERATION);
        token_usage: HistogramVec = histograms("gen_ai_client_token_usage", "Tokens of a model call.",
            &["gen_ai_token_type", "gen_ai_request_model"], TOKENS);
        tokens: IntCounterVec = counters("steadfast_llm_tokens_total", "Tokens used.", &["agent", "model", "type"]);
        cost: prometheus::CounterVec = register(prometheus::CounterVec::new(
            Opts::new("steadfast_llm_cost_usd_total", "Money spent, where the agent names a price."), &["agent", "model"]));
        errors: IntCounterVec = counters("steadfast_llm_errors_total", "Model calls that failed, by cause.", &["model", "error_type"]);
        orphaned: IntCounter = counter("steadfast_llm_orphaned_calls_total", "Model calls whose outcome a crash took.");
        orphaned_tokens: IntCounter = counter("steadfast_llm_orphaned_tokens_total", "Tokens charged for them: what they had reserved.");
        orphaned_cost: prometheus::Counter = register(prometheus::Counter::new(
            "steadfast_llm_orphaned_cost_usd_total", "Money charged for them, where the agent names a price."));
        retries: IntCounterVec = counters("steadfast_step_retries_total", "Model calls tried again, by cause.", &["error_type"]);
    }
}

family! {
    /// Model providers, as this worker sees them.
    providers, ProviderMetrics {
        breaker_state: IntGaugeVec = gauges("steadfast_provider_breaker_state", "0 closed, 1 half-open, 2 open.", &["provider", "model"]);
        paused: IntGaugeVec = gauges("steadfast_provider_paused", "1 while the provider has asked for patience.", &["provider", "model"]);
        in_flight: IntGaugeVec = gauges("steadfast_provider_calls_in_flight", "Calls under way.", &["provider", "model"]);
        calls: IntCounterVec = counters("steadfast_provider_calls_total", "Calls made, retries included.", &["provider", "model"]);
        retries: IntCounterVec = counters("steadfast_provider_retries_total", "Calls that were made again.", &["provider", "model"]);
        fallbacks: IntCounterVec = counters("steadfast_provider_fallbacks_total", "Calls that went to a fallback.", &["provider", "model"]);
        parked: IntCounterVec = counters("steadfast_runs_parked_total", "Times a run found no model to ask and let go of its slot.", &["reason"]);
        waits: HistogramVec = histograms("steadfast_model_place_wait_seconds", "Time runs waited in their slot for a place at a model.", &["reason"], FAST);
    }
}

family! {
    /// Tool calls.
    tools, ToolMetrics {
        calls: IntCounterVec = counters("steadfast_tool_calls_total", "Tool calls that ended.", &["tool", "outcome"]);
        duration: HistogramVec = histograms("gen_ai_execute_tool_duration_seconds", "Time of a tool call.",
            &["gen_ai_tool_name"], OPERATION);
    }
}

family! {
    /// The gateway.
    http, HttpMetrics {
        requests: IntCounterVec = counters("steadfast_http_requests_total", "Requests answered.", &["route", "method", "status"]);
        duration: HistogramVec = histograms("steadfast_http_request_duration_seconds", "Time to the head of the answer.", &["route"], FAST);
        sse_clients: IntGauge = gauge("steadfast_sse_clients", "Streams open now.");
        sse_refills: IntCounter = counter("steadfast_sse_refills_total", "Times a stream had to be filled from the store.");
        rejected: IntCounterVec = counters("steadfast_rejected_total", "Requests refused by a limit.", &["reason"]);
    }
}

family! {
    /// Queue and projections.
    flow, FlowMetrics {
        queue_depth: IntGauge = gauge("steadfast_queue_depth", "Commands not yet acknowledged.");
        runnable: IntGauge = gauge("steadfast_runs_runnable", "Runs that wait for a worker.");
        oldest_runnable: Gauge = register(Gauge::new("steadfast_oldest_runnable_age_seconds",
            "How long the oldest run has been without a worker: dispatched, left by a dead one, or in line though its tenant has less than its share."));
        held: IntGauge = gauge("steadfast_runs_held", "Runs in their tenants' lines, for want of a place at the workers.");
        lines: IntGauge = gauge("steadfast_tenants_with_held_runs", "Tenants with a line.");
        drained: Gauge = register(Gauge::new("steadfast_runs_drained_per_second", "How fast waiting runs find a place, measured."));
        joined: IntCounterVec = counters("steadfast_runs_held_total", "Runs that joined their tenant's line, by who put them there.", &["by"]);
        projection_lag: GaugeVec = register(GaugeVec::new(
            Opts::new("steadfast_projection_lag_seconds", "Age of the oldest event a projection has not applied."), &["projection"]));
        projection_events: IntCounterVec = counters("steadfast_projection_events_total", "Events applied.", &["projection"]);
        projection_errors: IntCounterVec = counters("steadfast_projection_errors_total", "Times a projection stopped at an event.", &["projection"]);
        projection_stopped: IntGaugeVec = gauges("steadfast_projection_stopped", "1 while a projection stands at an event it cannot apply.", &["projection"]);
        xmin_age: Gauge = register(Gauge::new("steadfast_log_xmin_age_seconds",
            "For how long the same open transaction has been the oldest: readers of the whole log see nothing behind it."));
        up: IntGaugeVec = gauges("steadfast_up", "1 for each role this process runs.", &["role", "version"]);
    }
}

/// The words of [`ModelMetrics::errors`] and of the run's error codes.
pub const ERROR_CLASSES: [&str; 6] = [
    "rate_limited",
    "unavailable",
    "timeout",
    "connection",
    "malformed",
    "rejected",
];

/// The words of [`ProviderMetrics::parked`] and of the event `model_call.parked`.
pub const PARK_REASONS: [&str; 5] = [
    "breaker_open",
    "rate_limited",
    "retry_budget",
    "provider_busy",
    "tenant_busy",
];

/// Makes every family exist, and the label sets that are known beforehand: a counter that is there from the start shows
/// its first increase.
pub fn init() {
    store();
    runs();
    model();
    providers();
    tools();
    http();
    flow();
    for class in ERROR_CLASSES {
        model().retries.with_label_values(&[class]);
        model().errors.with_label_values(&["default", class]);
    }
    for reason in PARK_REASONS {
        providers().parked.with_label_values(&[reason]);
        providers().waits.with_label_values(&[reason]);
    }
    for about in ["cut_off_tool", "orphaned_call"] {
        runs().approvals.with_label_values(&[about]);
    }
    for limit in BudgetLimit::ALL {
        runs().budget_exceeded.with_label_values(&[limit.as_str()]);
    }
    for reason in ["connections", "streams", "rate", "held_runs", "overload"] {
        http().rejected.with_label_values(&[reason]);
    }
    for by in ["gateway", "worker", "redriver"] {
        flow().joined.with_label_values(&[by]);
    }
}

/// The exposition text of everything registered.
pub fn render() -> String {
    init();
    prometheus::TextEncoder::new()
        .encode_to_string(&prometheus::gather())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_registered_once_and_renders() {
        super::store().append_errors.inc();
        super::flow().projection_lag.with_label_values(&["run_list"]).set(1.5);
        let text = super::render();
        assert!(text.contains("steadfast_append_errors_total 1"), "{text}");
        assert!(
            text.contains("steadfast_projection_lag_seconds{projection=\"run_list\"} 1.5"),
            "{text}"
        );
    }
}
