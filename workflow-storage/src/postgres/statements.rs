//! The statements, with the schema's name put in.

use super::read::{CLAIMED, SELECT};
use super::schema::named;

/// How many parameters `keepstep.commit` takes.
const COMMIT_PARAMETERS: usize = 54;

#[derive(Debug)]
pub(super) struct Statements {
    pub(super) commit: String,
    pub(super) append: String,
    pub(super) record: String,
    pub(super) records: String,
    pub(super) by_id: String,
    pub(super) journal: String,
    pub(super) value: String,
    pub(super) due: String,
    pub(super) inbox: String,
    pub(super) unread: String,
    pub(super) claim: String,
    pub(super) claim_free: String,
    pub(super) renew: String,
    pub(super) release: String,
    pub(super) watch: String,
    pub(super) want: String,
    pub(super) workers: String,
    pub(super) say_waits: String,
    pub(super) forget_waits: String,
    pub(super) waits: String,
    pub(super) agree_on_blobs: String,
    pub(super) begin_blob: String,
    pub(super) put_chunk: String,
    pub(super) finish_blob: String,
    pub(super) finish_object: String,
    pub(super) finish_stream: String,
    pub(super) pin: String,
    pub(super) keep_pins: String,
    pub(super) blob: String,
    pub(super) chunks: String,
    pub(super) sweep: String,
    pub(super) collect: String,
    pub(super) strays: String,
    pub(super) forget_writers: String,
    pub(super) forget_nodes: String,
    pub(super) offer: String,
    pub(super) take: String,
    pub(super) finish: String,
    pub(super) give_back: String,
    pub(super) begin: String,
    pub(super) held: String,
    pub(super) look: String,
    pub(super) remove_tasks: String,
    pub(super) limit_at_once: String,
    pub(super) limit_per_key: String,
    pub(super) limits: String,
    pub(super) unserved: String,
}

impl Statements {
    pub(super) fn new(schema: &str) -> Self {
        let sql = |sql: &str| named(sql, schema);
        let places: Vec<String> = (1..=COMMIT_PARAMETERS).map(|n| format!("${n}")).collect();
        Self {
            commit: sql(&format!("SELECT * FROM keepstep.commit({})", places.join(", "))),
            append: sql(
                "WITH written AS (
                    UPDATE keepstep.run r SET next_entry = $4, kind = $6, status = $7, owner = $8, epoch = $9, workflow = $10,
                        plan_hash = $11, created_at = $12, started_at = $13, ended_at = $14, wake_at = $15, first_entry = $16,
                        journal_bytes = $17, steps_total = $18, steps_done = $19, steps_failed = $20, parent_run = $21,
                        parent_incarnation = $22, parent_step = $23, build_label = $24, build_steps = $25, build_executable = $26
                    WHERE r.id = $1 AND r.epoch = $2 AND r.incarnation = $3 AND r.next_entry = $4::bigint - 1
                    RETURNING r.no
                )
                INSERT INTO keepstep.entry (run_no, position, bytes) SELECT w.no, $4 - 1, $5 FROM written w RETURNING position",
            ),
            record: sql(&format!("{SELECT} WHERE r.id = $2")),
            records: sql(&format!("{SELECT} WHERE r.id = ANY ($2)")),
            by_id: sql(&format!(
                "{SELECT} WHERE r.kind = $2 AND r.id >= $3 AND r.id > $4 \
                 AND r.id < coalesce($5, repeat(chr(1114111), 300)) ORDER BY r.id LIMIT $6"
            )),
            journal: sql(
                "SELECT p.position, p.bytes FROM (
                    SELECT e.position, e.bytes, sum(octet_length(e.bytes)) OVER (ORDER BY e.position) AS total,
                        row_number() OVER (ORDER BY e.position) AS n
                    FROM (
                        SELECT e.position, e.bytes FROM keepstep.entry e
                        WHERE e.run_no = (SELECT r.no FROM keepstep.run r WHERE r.id = $1) AND e.position >= $2
                        ORDER BY e.position LIMIT $5
                    ) e
                ) p WHERE p.total <= $3 OR p.n = 1 AND $4 ORDER BY p.position",
            ),
            value: sql(
                "SELECT v.bytes FROM keepstep.value v
                WHERE v.run_no = (SELECT r.no FROM keepstep.run r WHERE r.id = $1) AND v.kind = $2 AND v.name = $3",
            ),
            due: sql(
                "SELECT r.wake_at, r.id FROM keepstep.run r
                WHERE r.kind = $1 AND r.status IN (1, 2) AND r.wake_at IS NOT NULL AND r.wake_at <= $2
                    AND (r.wake_at, r.id) > ($4, $5)
                ORDER BY r.wake_at, r.id LIMIT $3",
            ),
            inbox: sql(
                "SELECT m.number, m.body, m.sent_at FROM keepstep.message m
                WHERE m.run_no = (SELECT r.no FROM keepstep.run r WHERE r.id = $1) AND m.number > $2
                ORDER BY m.number LIMIT $3",
            ),
            unread: sql(
                "SELECT r.id FROM (SELECT DISTINCT m.run_no FROM keepstep.message m) u
                JOIN keepstep.run r ON r.no = u.run_no WHERE r.id > $1 ORDER BY r.id LIMIT $2",
            ),
            claim: sql(&format!("{CLAIMED} keepstep.claim($1, $2, $3, $4) AS r")),
            claim_free: sql(&format!(
                "{CLAIMED} keepstep.claim_free($1, $2, $3, $4, $5, $6, $7, $8) AS r"
            )),
            renew: sql("SELECT keepstep.renew($1, $2, $3)"),
            release: sql("SELECT keepstep.release($1, $2, $3)"),
            // Locked in the order in which commits lock.
            watch: sql(
                "UPDATE keepstep.run r SET is_watched = true FROM (
                    SELECT w.id FROM keepstep.run w WHERE w.id = ANY ($1) AND NOT w.is_watched AND w.status < 3
                    ORDER BY w.id FOR NO KEY UPDATE
                ) x WHERE r.id = x.id",
            ),
            workers: sql(
                "SELECT n.id FROM keepstep.node n WHERE n.takes_runs AND n.lease_until > clock_timestamp()",
            ),
            say_waits: sql(
                "INSERT INTO keepstep.wait (node, bytes) SELECT n.id, $2 FROM keepstep.node n WHERE n.id = $1
                ON CONFLICT (node) DO UPDATE SET bytes = excluded.bytes",
            ),
            forget_waits: sql("DELETE FROM keepstep.wait w WHERE w.node = $1"),
            waits: sql(
                "SELECT w.node, w.bytes FROM keepstep.wait w JOIN keepstep.node n ON n.id = w.node
                WHERE n.lease_until > clock_timestamp() ORDER BY w.node",
            ),
            want: sql(
                "SELECT pg_notify('keepstep', 'wanted ' || to_hex(r.owner) || ' ' || r.id) FROM keepstep.run r
                WHERE r.id = $1 AND r.owner IS NOT NULL",
            ),
            // A store that is being used is not written to.
            agree_on_blobs: sql(
                "WITH first AS (
                    UPDATE keepstep.store s SET blobs_in = $1 WHERE s.blobs_in IS NULL RETURNING s.blobs_in
                )
                SELECT f.blobs_in FROM first f UNION ALL SELECT s.blobs_in FROM keepstep.store s WHERE s.blobs_in IS NOT NULL LIMIT 1",
            ),
            begin_blob: sql("SELECT keepstep.begin_blob($1, $2, $3)"),
            put_chunk: sql(
                "INSERT INTO keepstep.blob_chunk (blob, number, bytes) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            ),
            finish_blob: sql("UPDATE keepstep.blob SET is_whole = true WHERE id = $1"),
            // Whoever was first says where it is. The same again says the same.
            finish_object: sql(
                "UPDATE keepstep.blob b SET is_whole = true, place = coalesce(b.place, $2) WHERE b.id = $1 RETURNING b.place",
            ),
            finish_stream: sql("SELECT keepstep.finish_stream($1, $2, $3, $4)"),
            pin: sql("SELECT keepstep.pin($1, $2, $3, $4)"),
            // What is being written at this moment is said so anyway.
            keep_pins: sql(
                "UPDATE keepstep.blob_pin p SET until = now() + interval '1 day'
                WHERE p.process = $1 AND p.blob = ANY (ARRAY(
                    SELECT x.blob FROM keepstep.blob_pin x
                    WHERE x.process = $1 AND x.until < now() + interval '12 hours' FOR NO KEY UPDATE SKIP LOCKED))",
            ),
            blob: sql("SELECT b.size, b.place FROM keepstep.blob b WHERE b.id = $1 AND b.is_whole"),
            chunks: sql(
                "SELECT c.number, c.bytes FROM keepstep.blob_chunk c WHERE c.blob = $1 AND c.number >= $2
                ORDER BY c.number LIMIT $3",
            ),
            sweep: sql("SELECT next, removed, bytes, places FROM keepstep.sweep($1)"),
            collect: sql("SELECT keepstep.collect()"),
            strays: sql(
                "SELECT x.place FROM unnest($1::text[]) AS x (place)
                WHERE NOT EXISTS (SELECT FROM keepstep.blob b WHERE b.place = x.place)",
            ),
            forget_writers: sql(
                "DELETE FROM keepstep.writer w WHERE w.committed_at < now() - interval '1 day'",
            ),
            forget_nodes: sql(
                "DELETE FROM keepstep.node n WHERE n.lease_until < now() - interval '1 day'
                AND NOT EXISTS (SELECT FROM keepstep.run r WHERE r.owner = n.id AND r.status IN (1, 2))
                AND NOT EXISTS (SELECT FROM keepstep.task t WHERE t.node = n.id AND t.state = 1)",
            ),
            offer: sql(
                "SELECT n, task, result FROM keepstep.offer($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            ),
            take: sql(
                "SELECT task, claim, run, incarnation, step, attempt, payload, n_lost
                FROM keepstep.take($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            ),
            begin: sql(
                "UPDATE keepstep.task t SET is_begun = true
                WHERE t.no = $2 AND t.claim = $3 AND t.node = $1 AND t.state = 1",
            ),
            finish: sql("SELECT outcomes, absent FROM keepstep.finish($1, $2, $3, $4, $5, $6, $7)"),
            give_back: sql("SELECT keepstep.give_back($1, $2, $3)"),
            held: sql(
                "SELECT t.no, t.claim FROM keepstep.task t WHERE t.node = $1 AND t.state = 1 ORDER BY t.no",
            ),
            look: sql("SELECT t.no, t.result FROM keepstep.task t WHERE t.no = ANY ($1)"),
            remove_tasks: sql("SELECT keepstep.remove_tasks($1, $2, $3)"),
            limit_at_once: sql(&limit_of("at_once")),
            limit_per_key: sql(&limit_of("at_once_per_key")),
            unserved: sql(
                "SELECT p.name FROM unnest($1::text[]) WITH ORDINALITY AS p (name, n)
                    WHERE EXISTS (SELECT FROM keepstep.task t WHERE t.pool = p.name AND t.state IN (0, 1))
                    AND NOT EXISTS (SELECT FROM keepstep.task t JOIN keepstep.node n ON n.id = t.node
                        WHERE t.pool = p.name AND t.state = 1 AND n.lease_until > clock_timestamp())
                    ORDER BY p.n",
            ),
            limits: sql("SELECT p.at_once, p.at_once_per_key FROM keepstep.pool p WHERE p.name = $1"),
        }
    }
}

/// Sets one of the limits of a pool.
fn limit_of(column: &str) -> String {
    format!(
        "WITH made AS (
            INSERT INTO keepstep.pool (name, {column}) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET {column} = excluded.{column})
        SELECT pg_notify('keepstep', 'task ' || $1)"
    )
}
