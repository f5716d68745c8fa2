-- Format 1 of a store in PostgreSQL. The schema's name is put in for "keepstep" when this is run.
--
-- Times are microseconds since 1970 (the views show them as timestamps); the largest bigint stands for "never" and for every
-- number that does not fit. Ids of nodes and incarnations are 64 random bits, shown with a sign.

CREATE TABLE keepstep.store (
    format int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Where blobs are, as the first process said that opened the store.
    blobs_in text
);
INSERT INTO keepstep.store (format) VALUES (1);

-- Processes that own runs. While `lease_until` is to come, nobody else takes a run of the node; a node that ended its
-- leases itself has '-infinity' there. Its leases have lasted without a gap since `leased_since`.
CREATE TABLE keepstep.node (
    id bigint PRIMARY KEY,
    lease_until timestamptz NOT NULL,
    leased_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    opened_at timestamptz NOT NULL DEFAULT now(),
    address text,
    -- Whether it takes up runs that nobody owns.
    takes_runs boolean NOT NULL DEFAULT false,
    -- Of which pools (null: of all) and which steps it takes tasks, as it said last; no names: none.
    takes_pools text[],
    takes_names bytea[],
    takes_versions bigint[]
);

-- Who waits for whom at a node, while something there waits for what another node has: only keepstep reads it.
CREATE TABLE keepstep.wait (
    node bigint PRIMARY KEY REFERENCES keepstep.node (id) ON DELETE CASCADE,
    bytes bytea NOT NULL
);

-- The catalog. `no` is what other tables call a run by: an id that is deleted and used again gets another.
CREATE TABLE keepstep.run (
    id text COLLATE "C" PRIMARY KEY,
    no bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    kind smallint NOT NULL,
    status smallint NOT NULL,
    owner bigint,
    epoch bigint NOT NULL,
    incarnation bigint NOT NULL,
    workflow text NOT NULL,
    plan_hash bytea NOT NULL,
    created_at bigint NOT NULL,
    started_at bigint,
    ended_at bigint,
    wake_at bigint,
    first_entry bigint NOT NULL,
    next_entry bigint NOT NULL,
    journal_bytes bigint NOT NULL,
    steps_total bigint NOT NULL,
    steps_done bigint NOT NULL,
    steps_failed bigint NOT NULL,
    parent_run text COLLATE "C",
    parent_incarnation bigint,
    parent_step bigint,
    build_label text NOT NULL,
    build_steps bigint NOT NULL,
    build_executable bytea,
    next_message bigint NOT NULL DEFAULT 0,
    is_watched boolean NOT NULL DEFAULT false,
    -- How often in a row it was claimed from a node whose lease had ended, when that was last, and how many steps had
    -- ended by then.
    times_taken smallint NOT NULL DEFAULT 0,
    taken_at timestamptz,
    taken_with bigint,
    -- How often, one time after another, the run was claimed from a node that had not released it, with no entry in between; and its
    -- next entry at the last of these claims.
    n_orphaned int NOT NULL DEFAULT 0,
    orphaned_at_entry bigint
    -- A step of a run changes no indexed column, so that its row is rewritten in its page, if that has room.
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX run_by_creation ON keepstep.run (kind, created_at, id);
CREATE INDEX run_by_status ON keepstep.run (kind, status, created_at, id);
CREATE INDEX run_by_wake ON keepstep.run (kind, wake_at, id) WHERE status IN (1, 2) AND wake_at IS NOT NULL;
CREATE INDEX run_by_owner ON keepstep.run (owner, kind, created_at, id) WHERE status IN (1, 2);
-- The runs that a run started.
CREATE INDEX run_by_parent ON keepstep.run (parent_run, parent_incarnation, created_at, id) WHERE parent_run IS NOT NULL;
-- What nobody owns, apart from the many that have ended: whoever looks for it would else walk past all of them.
CREATE INDEX run_free ON keepstep.run (kind, created_at, id) WHERE owner IS NULL AND status IN (1, 2);

CREATE TABLE keepstep.entry (
    run_no bigint NOT NULL,
    position bigint NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (run_no, position)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- What is in an entry is checksummed and mostly small: compressing it again costs more than it saves.
ALTER TABLE keepstep.entry ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE keepstep.value (
    run_no bigint NOT NULL,
    kind smallint NOT NULL,
    name bytea NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (run_no, kind, name)
);

CREATE TABLE keepstep.message (
    run_no bigint NOT NULL,
    number bigint NOT NULL,
    body bytea NOT NULL,
    -- By the clock of the process that sent it.
    sent_at bigint NOT NULL,
    arrived_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_no, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Keys of messages that arrived: they outlive their messages.
CREATE TABLE keepstep.message_key (
    run_no bigint NOT NULL,
    key bytea NOT NULL,
    PRIMARY KEY (run_no, key)
);

-- Large bytes under the BLAKE3 hash of their content; under 32 random bytes while they are being streamed in. They are in chunks,
-- or in an object of a bucket, whose name is `place`.
CREATE TABLE keepstep.blob (
    id bytea PRIMARY KEY,
    size bigint NOT NULL,
    is_whole boolean NOT NULL,
    place text COLLATE "C"
);
CREATE INDEX blob_by_place ON keepstep.blob (place) WHERE place IS NOT NULL;
CREATE TABLE keepstep.blob_chunk (
    blob bytea NOT NULL,
    number int NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (blob, number)
);
ALTER TABLE keepstep.blob_chunk ALTER COLUMN bytes SET STORAGE EXTERNAL;
-- Blobs that a process wants to stay although no run may name them yet. It says so again while it lives.
CREATE TABLE keepstep.blob_pin (
    blob bytea NOT NULL,
    process bigint NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (blob, process)
);
CREATE INDEX blob_pin_by_process ON keepstep.blob_pin (process);
CREATE TABLE keepstep.blob_reference (
    run_no bigint NOT NULL,
    blob bytea NOT NULL,
    PRIMARY KEY (run_no, blob)
);
CREATE INDEX blob_reference_by_blob ON keepstep.blob_reference (blob);

-- The last commit or claim of each of a process's writers, and what came of it: one whose answer was lost is asked for again,
-- and not done twice. No outcomes stand for writes that were all taken, no epochs for none that was fenced.
CREATE TABLE keepstep.writer (
    id bigint PRIMARY KEY,
    number bigint NOT NULL,
    outcomes smallint[] NOT NULL,
    epochs bigint[] NOT NULL,
    absent bytea[] NOT NULL,
    sent smallint[] NOT NULL,
    numbers bigint[] NOT NULL,
    unsent bytea[] NOT NULL,
    deleted smallint[] NOT NULL DEFAULT '{}',
    claimed text[] NOT NULL,
    committed_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- Whether a run lacks what whoever writes to it has written before.
CREATE FUNCTION keepstep.is_behind(r keepstep.run, a_epoch bigint, a_incarnation bigint, a_follows bigint)
    RETURNS boolean IMMUTABLE LANGUAGE sql AS $$
    SELECT r.epoch = a_epoch AND r.incarnation = a_incarnation AND r.next_entry <> a_follows
$$;

-- One batch. Arrays hold one element a write, or name their write by its place (`…_of`, from 1). `…_with` is the place of
-- the write that something is taken with, 0 for none, -1 for one that is not there.
--
-- A write is taken only while the journal of its run ends where the write was made to follow, at `w_follows`: a standby that takes
-- the place of a primary may lack what that had acknowledged. Whoever writes knows more than the store then. So the run is taken
-- from it, as from one whose lease has ended, and whoever claims it begins with what is stored.
--
-- Outcomes of writes: 0 written, 1 fenced, 2 exists, 3 not found, 4 skipped, 5 names a blob that is not there, which is in
-- `absent`. Of messages: 0 accepted, 1 duplicate, 2 ended, 3 not found, 4 skipped, 5 as above, in `unsent`.
-- Of deletes: 0 deleted, 1 fenced, 3 not found, 4 skipped since another one of its family was not taken, 6 owned by a node
-- whose lease lasts.
--
-- Rows are locked in the order of their ids, runs that exist first, so that two commits do not wait for each other.
CREATE FUNCTION keepstep.commit(
    a_writer bigint, a_number bigint, a_nodes bigint[], a_locked text[],
    w_id text[], w_is_new boolean[], w_expected bigint[], w_follows bigint[], w_with int[],
    w_kind smallint[], w_status smallint[], w_owner bigint[], w_epoch bigint[], w_incarnation bigint[],
    w_workflow text[], w_plan_hash bytea[], w_created_at bigint[], w_started_at bigint[], w_ended_at bigint[],
    w_wake_at bigint[], w_first_entry bigint[], w_next_entry bigint[], w_journal_bytes bigint[],
    w_steps_total bigint[], w_steps_done bigint[], w_steps_failed bigint[],
    w_parent_run text[], w_parent_incarnation bigint[], w_parent_step bigint[],
    w_build_label text[], w_build_steps bigint[], w_build_executable bytea[],
    e_of int[], e_bytes bytea[], t_of int[],
    v_of int[], v_kind smallint[], v_name bytea[], v_bytes bytea[],
    c_of int[], c_number bigint[], b_of int[], b_id bytea[],
    m_to text[], m_key bytea[], m_body bytea[], m_sent_at bigint[], m_with int[], s_of int[], s_id bytea[],
    d_id text[], d_expected bigint[], d_node bigint[], d_family text[],
    OUT outcomes smallint[], OUT epochs bigint[], OUT absent bytea[],
    OUT sent smallint[], OUT numbers bigint[], OUT unsent bytea[], OUT deleted smallint[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    n constant int := cardinality(w_id);
    channel constant text := 'keepstep';
    last_number bigint;
    nos bigint[];
    old_first bigint[];
    known bigint[];
    undone bigint[] := '{}';
    gone bigint[];
    ahead bigint[] := '{}';
    stored bytea[] := '{}';
    target record;
BEGIN
    -- An attempt whose connection was lost may still be under way, which this waits for, or yet to arrive, which this refuses.
    INSERT INTO keepstep.writer AS w (id, number, outcomes, epochs, absent, sent, numbers, unsent, deleted, claimed, committed_at)
        VALUES (a_writer, a_number, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', now())
        ON CONFLICT (id) DO UPDATE SET number = excluded.number, outcomes = '{}', epochs = '{}', absent = '{}', sent = '{}',
            numbers = '{}', unsent = '{}', deleted = '{}', committed_at = excluded.committed_at
        WHERE w.number < excluded.number;
    IF NOT FOUND THEN
        SELECT w.number, w.outcomes, w.epochs, w.absent, w.sent, w.numbers, w.unsent, w.deleted
            INTO last_number, outcomes, epochs, absent, sent, numbers, unsent, deleted
            FROM keepstep.writer w WHERE w.id = a_writer;
        IF last_number > a_number THEN
            RAISE EXCEPTION 'commit % of this writer was overtaken', a_number USING ERRCODE = 'KS001';
        END IF;
        RETURN;
    END IF;

    absent := '{}';
    IF n = 1 AND NOT w_is_new[1] AND w_with[1] = 0 AND cardinality(t_of) + cardinality(m_to) + cardinality(b_id) + cardinality(d_id) = 0 THEN
        -- One step of one run, as most commits of a run by itself are.
        UPDATE keepstep.run r SET kind = w_kind[1], status = w_status[1], owner = w_owner[1], epoch = w_epoch[1],
                incarnation = w_incarnation[1], workflow = w_workflow[1], plan_hash = w_plan_hash[1],
                created_at = w_created_at[1], started_at = w_started_at[1], ended_at = w_ended_at[1], wake_at = w_wake_at[1],
                first_entry = w_first_entry[1], next_entry = w_next_entry[1], journal_bytes = w_journal_bytes[1],
                steps_total = w_steps_total[1], steps_done = w_steps_done[1], steps_failed = w_steps_failed[1],
                parent_run = w_parent_run[1], parent_incarnation = w_parent_incarnation[1], parent_step = w_parent_step[1],
                build_label = w_build_label[1], build_steps = w_build_steps[1], build_executable = w_build_executable[1]
            WHERE r.id = w_id[1] AND r.epoch = w_expected[1] AND r.next_entry = w_follows[1]
            RETURNING ARRAY[r.no] INTO nos;
        outcomes := '{0}';
        epochs := '{}';
        IF nos IS NULL THEN
            SELECT ARRAY[r.epoch], CASE WHEN keepstep.is_behind(r, w_expected[1], w_incarnation[1], w_follows[1]) THEN ARRAY[r.no] ELSE '{}' END
                INTO epochs, ahead FROM keepstep.run r WHERE r.id = w_id[1] FOR NO KEY UPDATE;
            outcomes := CASE WHEN epochs IS NULL THEN '{3}' ELSE '{1}' END;
        END IF;
    ELSE
        WITH locked AS MATERIALIZED (
            SELECT r.id, r.no, r.epoch, r.first_entry, r.next_entry FROM keepstep.run r
                WHERE r.id = ANY (a_locked) ORDER BY r.id FOR NO KEY UPDATE
        ), judged AS (
            SELECT w.n, l.no, l.epoch, l.first_entry, CASE
                    WHEN w.is_new THEN CASE WHEN l.no IS NULL THEN 0 ELSE 2 END
                    WHEN l.no IS NULL THEN 3
                    WHEN l.epoch <> w.expected OR l.next_entry <> w.follows THEN 1
                    ELSE 0
                END::smallint AS outcome
            FROM unnest(w_id, w_is_new, w_expected, w_follows) WITH ORDINALITY AS w (id, is_new, expected, follows, n)
            LEFT JOIN locked l ON l.id = w.id
        )
        SELECT coalesce(array_agg(j.outcome ORDER BY j.n), '{}'), coalesce(array_agg(j.epoch ORDER BY j.n), '{}'),
                array_agg(j.no ORDER BY j.n), array_agg(j.first_entry ORDER BY j.n),
                (SELECT array_agg(l.no) FROM locked l)
            INTO outcomes, epochs, nos, old_first, known
            FROM judged j;
        IF 1 = ANY (outcomes) THEN
            ahead := ARRAY(
                SELECT r.no FROM unnest(nos, outcomes, w_expected, w_incarnation, w_follows)
                    AS w (no, outcome, expected, incarnation, follows)
                JOIN keepstep.run r ON r.no = w.no
                WHERE w.outcome = 1 AND keepstep.is_behind(r, w.expected, w.incarnation, w.follows));
        END IF;

        IF cardinality(b_id) + cardinality(s_id) > 0 THEN
            -- Held, so that none is swept before this is done.
            PERFORM 1 FROM keepstep.blob b WHERE b.id = ANY (b_id || s_id) ORDER BY b.id FOR SHARE;
            stored := ARRAY(SELECT b.id FROM keepstep.blob b WHERE b.id = ANY (b_id || s_id) AND b.is_whole);
            FOR target IN
                SELECT DISTINCT ON (x.of) x.of, x.id FROM unnest(b_of, b_id) AS x (of, id)
                WHERE outcomes[x.of] = 0 AND x.id NOT IN (SELECT unnest(stored)) ORDER BY x.of
            LOOP
                IF absent = '{}' THEN
                    absent := array_fill(NULL::bytea, ARRAY[n]);
                END IF;
                outcomes[target.of] := 5;
                absent[target.of] := target.id;
            END LOOP;
        END IF;

        IF true = ANY (w_is_new) THEN
            WITH made AS (
                INSERT INTO keepstep.run (id, kind, status, owner, epoch, incarnation, workflow, plan_hash, created_at, started_at,
                    ended_at, wake_at, first_entry, next_entry, journal_bytes, steps_total, steps_done, steps_failed,
                    parent_run, parent_incarnation, parent_step, build_label, build_steps, build_executable)
                SELECT w.id, w.kind, w.status, w.owner, w.epoch, w.incarnation, w.workflow, w.plan_hash, w.created_at, w.started_at,
                    w.ended_at, w.wake_at, w.first_entry, w.next_entry, w.journal_bytes, w.steps_total, w.steps_done, w.steps_failed,
                    w.parent_run, w.parent_incarnation, w.parent_step, w.build_label, w.build_steps, w.build_executable
                FROM unnest(w_id, w_is_new, outcomes, w_kind, w_status, w_owner, w_epoch, w_incarnation, w_workflow, w_plan_hash,
                    w_created_at, w_started_at, w_ended_at, w_wake_at, w_first_entry, w_next_entry, w_journal_bytes,
                    w_steps_total, w_steps_done, w_steps_failed, w_parent_run, w_parent_incarnation, w_parent_step,
                    w_build_label, w_build_steps, w_build_executable)
                    AS w (id, is_new, outcome, kind, status, owner, epoch, incarnation, workflow, plan_hash,
                    created_at, started_at, ended_at, wake_at, first_entry, next_entry, journal_bytes,
                    steps_total, steps_done, steps_failed, parent_run, parent_incarnation, parent_step,
                    build_label, build_steps, build_executable)
                WHERE w.is_new AND w.outcome = 0
                ORDER BY w.id COLLATE "C"
                ON CONFLICT (id) DO NOTHING
                RETURNING id, no
            )
            SELECT array_agg(CASE WHEN w.is_new AND w.outcome = 0 AND made.no IS NULL THEN 2 ELSE w.outcome END::smallint ORDER BY w.n),
                    array_agg(coalesce(made.no, w.no) ORDER BY w.n),
                    known || coalesce((SELECT array_agg(m.no) FROM made m), '{}')
                INTO outcomes, nos, known
                FROM unnest(w_id, w_is_new, outcomes, nos) WITH ORDINALITY AS w (id, is_new, outcome, no, n)
                LEFT JOIN made ON made.id = w.id;
        END IF;

        IF 0 <> ANY (w_with) THEN
            FOR i IN 1..n LOOP
                IF w_with[i] < 0 OR w_with[i] > 0 AND outcomes[w_with[i]] <> 0 THEN
                    IF w_is_new[i] AND outcomes[i] = 0 THEN
                        undone := undone || nos[i];
                    END IF;
                    outcomes[i] := 4;
                END IF;
            END LOOP;
            DELETE FROM keepstep.run r WHERE r.no = ANY (undone);
        END IF;

        IF false = ANY (w_is_new) THEN
            UPDATE keepstep.run r SET kind = w.kind, status = w.status, owner = w.owner, epoch = w.epoch,
                    incarnation = w.incarnation, workflow = w.workflow, plan_hash = w.plan_hash, created_at = w.created_at,
                    started_at = w.started_at, ended_at = w.ended_at, wake_at = w.wake_at, first_entry = w.first_entry,
                    next_entry = w.next_entry, journal_bytes = w.journal_bytes, steps_total = w.steps_total,
                    steps_done = w.steps_done, steps_failed = w.steps_failed, parent_run = w.parent_run,
                    parent_incarnation = w.parent_incarnation, parent_step = w.parent_step,
                    build_label = w.build_label, build_steps = w.build_steps, build_executable = w.build_executable
                FROM unnest(nos, w_is_new, outcomes, w_kind, w_status, w_owner, w_epoch, w_incarnation, w_workflow, w_plan_hash,
                    w_created_at, w_started_at, w_ended_at, w_wake_at, w_first_entry, w_next_entry, w_journal_bytes,
                    w_steps_total, w_steps_done, w_steps_failed, w_parent_run, w_parent_incarnation, w_parent_step,
                    w_build_label, w_build_steps, w_build_executable)
                    AS w (no, is_new, outcome, kind, status, owner, epoch, incarnation, workflow, plan_hash,
                    created_at, started_at, ended_at, wake_at, first_entry, next_entry, journal_bytes,
                    steps_total, steps_done, steps_failed, parent_run, parent_incarnation, parent_step,
                    build_label, build_steps, build_executable)
                WHERE r.no = w.no AND NOT w.is_new AND w.outcome = 0;
        END IF;
    END IF;

    IF cardinality(ahead) > 0 THEN
        UPDATE keepstep.run r SET owner = NULL, epoch = r.epoch + 1 WHERE r.no = ANY (ahead);
        PERFORM pg_notify(channel, 'free');
    END IF;

    IF cardinality(e_of) > 0 THEN
        INSERT INTO keepstep.entry (run_no, position, bytes)
            SELECT nos[e.of], w_next_entry[e.of] - 1, e.bytes FROM unnest(e_of, e_bytes) AS e (of, bytes)
            WHERE outcomes[e.of] = 0 AND w_next_entry[e.of] > w_first_entry[e.of];
    END IF;
    IF cardinality(t_of) > 0 THEN
        DELETE FROM keepstep.entry e USING unnest(t_of) AS t (of)
            WHERE outcomes[t.of] = 0 AND e.run_no = nos[t.of]
                AND e.position >= old_first[t.of] AND e.position < w_first_entry[t.of];
    END IF;
    IF cardinality(v_of) > 0 THEN
        DELETE FROM keepstep.value v USING unnest(v_of, v_kind, v_name, v_bytes) AS x (of, kind, name, bytes)
            WHERE x.bytes IS NULL AND outcomes[x.of] = 0
                AND v.run_no = nos[x.of] AND v.kind = x.kind AND v.name = x.name;
        INSERT INTO keepstep.value (run_no, kind, name, bytes)
            SELECT nos[x.of], x.kind, x.name, x.bytes
            FROM unnest(v_of, v_kind, v_name, v_bytes) AS x (of, kind, name, bytes)
            WHERE x.bytes IS NOT NULL AND outcomes[x.of] = 0
            ON CONFLICT (run_no, kind, name) DO UPDATE SET bytes = excluded.bytes;
    END IF;
    IF cardinality(c_of) > 0 THEN
        DELETE FROM keepstep.message m USING unnest(c_of, c_number) AS c (of, number)
            WHERE outcomes[c.of] = 0 AND m.run_no = nos[c.of] AND m.number = c.number;
    END IF;
    IF cardinality(b_of) > 0 THEN
        INSERT INTO keepstep.blob_reference (run_no, blob)
            SELECT DISTINCT nos[x.of], x.id FROM unnest(b_of, b_id) AS x (of, id) WHERE outcomes[x.of] = 0
            ON CONFLICT DO NOTHING;
    END IF;

    deleted := '{}';
    IF cardinality(d_id) > 0 THEN
        SELECT array_agg(j.outcome ORDER BY j.n), coalesce(array_agg(j.no ORDER BY j.no) FILTER (WHERE j.outcome = 0), '{}')
            INTO deleted, gone FROM (
                SELECT e.n, e.no, CASE
                    WHEN e.outcome = 0 AND e.family IS NOT NULL AND max(e.outcome) OVER (PARTITION BY e.family) > 0 THEN 4
                    ELSE e.outcome
                END::smallint AS outcome
                FROM (
                    SELECT d.n, d.family, r.no, CASE
                        WHEN r.no IS NULL THEN 3
                        WHEN r.epoch <> d.expected THEN 1
                        -- A run that has stopped is nobody's, and a schedule is owned for no longer than a write takes.
                        WHEN r.status < 3 AND r.kind <> 3 AND keepstep.is_taken(r.owner, d.node) THEN 6
                        ELSE 0
                    END AS outcome
                    FROM unnest(d_id, d_expected, d_node, d_family) WITH ORDINALITY AS d (id, expected, node, family, n)
                    -- A run that came to be since the rows were locked is not there yet.
                    LEFT JOIN (keepstep.run r JOIN unnest(known) AS k (no) ON k.no = r.no) ON r.id = d.id
                ) e
            ) j;
        PERFORM keepstep.delete_runs(gone);
    END IF;

    sent := '{}';
    numbers := '{}';
    unsent := '{}';
    IF cardinality(m_to) > 0 THEN
        WITH addressed AS (
            SELECT m.n, m.key, m.body, m.sent_at, r.no, r.status, r.next_message, r.owner, r.id,
                m.place < 0 OR m.place > 0 AND outcomes[m.place] <> 0 AS is_skipped,
                (SELECT s.id FROM unnest(s_of, s_id) AS s (of, id) WHERE s.of = m.n AND s.id NOT IN (SELECT unnest(stored)) LIMIT 1) AS absent
            FROM unnest(m_to, m_key, m_body, m_sent_at, m_with) WITH ORDINALITY AS m (id, key, body, sent_at, place, n)
            -- A run that came to be since the rows were locked is not there yet.
            LEFT JOIN (keepstep.run r JOIN unnest(known) AS k (no) ON k.no = r.no) ON r.id = m.id
        ), judged AS (
            SELECT a.*, CASE
                WHEN a.is_skipped THEN 4
                WHEN a.no IS NULL THEN 3
                WHEN a.key IS NOT NULL AND EXISTS (
                    SELECT FROM keepstep.message_key k WHERE k.run_no = a.no AND k.key = a.key) THEN 1
                WHEN a.status >= 4 THEN 2
                WHEN a.absent IS NOT NULL THEN 5
                WHEN a.key IS NOT NULL AND row_number() OVER (
                    PARTITION BY a.no, a.key, a.is_skipped, a.absent IS NULL ORDER BY a.n) > 1 THEN 1
                ELSE 0
            END::smallint AS outcome
            FROM addressed a
        ), numbered AS (
            SELECT j.*, j.next_message + row_number() OVER (PARTITION BY j.no, j.outcome ORDER BY j.n) - 1 AS number
            FROM judged j
        ), kept AS (
            INSERT INTO keepstep.message (run_no, number, body, sent_at)
            SELECT u.no, u.number, u.body, u.sent_at FROM numbered u WHERE u.outcome = 0
        ), remembered AS (
            INSERT INTO keepstep.message_key (run_no, key)
            SELECT u.no, u.key FROM numbered u WHERE u.outcome = 0 AND u.key IS NOT NULL
        ), named AS (
            INSERT INTO keepstep.blob_reference (run_no, blob)
            SELECT DISTINCT u.no, s.id FROM numbered u JOIN unnest(s_of, s_id) AS s (of, id) ON s.of = u.n
            WHERE u.outcome = 0 ON CONFLICT DO NOTHING
        ), counted AS (
            UPDATE keepstep.run r SET next_message = c.next
            FROM (SELECT u.no, max(u.number) + 1 AS next FROM numbered u WHERE u.outcome = 0 GROUP BY u.no) c
            WHERE r.no = c.no
        )
        SELECT array_agg(u.outcome ORDER BY u.n), array_agg(coalesce(u.number, 0) ORDER BY u.n),
                array_agg(CASE u.outcome WHEN 5 THEN u.absent END ORDER BY u.n)
            INTO sent, numbers, unsent FROM numbered u;
        IF 5 <> ALL (sent) THEN
            unsent := '{}';
        END IF;
        FOR target IN
            -- What a process owned that is gone, anybody may take up.
            SELECT DISTINCT m.id, n.id AS owner FROM unnest(m_to, sent) AS m (id, outcome) JOIN keepstep.run r ON r.id = m.id
            LEFT JOIN keepstep.node n ON n.id = r.owner AND n.lease_until > clock_timestamp()
            WHERE m.outcome = 0 AND (r.owner IS NULL OR r.owner <> ALL (a_nodes))
        LOOP
            PERFORM pg_notify(channel, 'mail ' || coalesce(to_hex(target.owner), '*') || ' ' || target.id);
        END LOOP;
    END IF;

    IF 3 <= ANY (w_status) THEN
        PERFORM keepstep.end_tasks(nos, outcomes, w_status);
    END IF;

    -- Those who wait elsewhere for a run to stop, who are told once, and those who look for one that nobody owns.
    IF 3 <= ANY (w_status) OR array_position(w_owner, NULL) IS NOT NULL THEN
        FOR target IN
            SELECT r.id, r.is_watched FROM unnest(nos, outcomes, w_status) AS w (no, outcome, status)
            JOIN keepstep.run r ON r.no = w.no
            WHERE w.outcome = 0
                AND (w.status >= 3 AND r.is_watched OR w.status < 3 AND r.owner IS NULL AND (r.kind = 1 OR r.wake_at IS NOT NULL))
        LOOP
            PERFORM pg_notify(channel, CASE WHEN target.is_watched THEN 'changed ' || target.id ELSE 'free' END);
            UPDATE keepstep.run r SET is_watched = false WHERE r.id = target.id AND r.is_watched;
        END LOOP;
    END IF;

    IF 0 = ALL (outcomes) THEN
        outcomes := '{}';
    END IF;
    IF NOT coalesce(1 = ANY (outcomes), false) THEN
        epochs := '{}';
    END IF;
    IF cardinality(outcomes) + cardinality(sent) + cardinality(deleted) > 0 THEN
        UPDATE keepstep.writer w SET outcomes = commit.outcomes, epochs = commit.epochs, absent = commit.absent,
            sent = commit.sent, numbers = commit.numbers, unsent = commit.unsent, deleted = commit.deleted WHERE w.id = a_writer;
    END IF;
END $$;

-- Makes the leases of a node last, or ends them: then what it owned is anybody's. Since when they have lasted, in
-- microseconds: whoever else renews them, too, the node finds out that they had ended.
CREATE FUNCTION keepstep.renew(a_node bigint, a_lease double precision, a_address text) RETURNS bigint LANGUAGE sql AS $$
    SELECT pg_notify('keepstep', 'free') WHERE a_lease <= 0;
    INSERT INTO keepstep.node AS n (id, lease_until, address)
        VALUES (a_node, CASE WHEN a_lease > 0 THEN clock_timestamp() + make_interval(secs => a_lease) ELSE '-infinity' END, a_address)
        ON CONFLICT (id) DO UPDATE SET lease_until = CASE WHEN a_lease > 0
            THEN greatest(n.lease_until, excluded.lease_until) ELSE excluded.lease_until END,
            leased_since = CASE WHEN n.lease_until > clock_timestamp() THEN n.leased_since ELSE excluded.leased_since END
        RETURNING (extract(epoch FROM n.leased_since) * 1000000)::bigint
$$;

-- Whether another node has a run.
CREATE FUNCTION keepstep.is_taken(a_owner bigint, a_node bigint) RETURNS boolean STABLE LANGUAGE sql AS $$
    SELECT a_owner IS NOT NULL AND a_owner <> a_node
        AND EXISTS (SELECT FROM keepstep.node n WHERE n.id = a_owner AND n.lease_until > clock_timestamp())
$$;

-- How often a run has been orphaned in a row, if a node claims it now.
CREATE FUNCTION keepstep.orphaned_by(r keepstep.run, a_node bigint) RETURNS int IMMUTABLE LANGUAGE sql AS $$
    SELECT CASE
        WHEN r.owner IS NULL OR r.owner = a_node THEN 0
        WHEN r.orphaned_at_entry = r.next_entry THEN r.n_orphaned + 1
        ELSE 1
    END
$$;

CREATE FUNCTION keepstep.claim(a_ids text[], a_node bigint, a_lease double precision, a_address text)
    RETURNS SETOF keepstep.run LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM keepstep.run r WHERE r.id = ANY (a_ids) ORDER BY r.id FOR NO KEY UPDATE;
    -- Everywhere, the row of a node is locked last: its leases are not renewed while it is.
    PERFORM keepstep.renew(a_node, a_lease, a_address);
    RETURN QUERY UPDATE keepstep.run r SET owner = a_node, epoch = r.epoch + 1,
            n_orphaned = keepstep.orphaned_by(r, a_node), orphaned_at_entry = r.next_entry
        -- A run that has stopped is nobody's, and a schedule is owned for no longer than a write takes.
        WHERE r.id = ANY (a_ids) AND (r.status >= 3 OR r.kind = 3 OR NOT keepstep.is_taken(r.owner, a_node)) RETURNING r.*;
END $$;

-- Until when a run is left alone whose owner's lease has ended. Whoever executes it may always be lost by that: after
-- three in a row with no step done, it is claimed after a pause that doubles, up to twenty leases. One that is pending
-- executes nothing.
CREATE FUNCTION keepstep.rests_until(r keepstep.run, a_lease double precision) RETURNS timestamptz STABLE LANGUAGE sql AS $$
    SELECT CASE WHEN r.status = 2 AND r.times_taken >= 3 AND r.taken_with = r.steps_done + r.steps_failed
        THEN r.taken_at + make_interval(secs => a_lease * least(2 ^ (r.times_taken - 2), 20))
        ELSE '-infinity' END
$$;

-- Claims runs that are to go on and that nobody owns: released ones first, then those whose owner's lease has ended.
CREATE FUNCTION keepstep.claim_free(
    a_writer bigint, a_number bigint, a_kind smallint, a_except text[], a_node bigint, a_lease double precision,
    a_address text, a_limit int
) RETURNS SETOF keepstep.run LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ids text[];
    part text[];
    lost text[] := '{}';
    gone bigint;
    was_lost boolean;
BEGIN
    -- As in a commit; also if nothing is found: an attempt that arrives late would claim for nobody.
    INSERT INTO keepstep.writer AS w (id, number, outcomes, epochs, absent, sent, numbers, unsent, claimed, committed_at)
        VALUES (a_writer, a_number, '{}', '{}', '{}', '{}', '{}', '{}', '{}', now())
        ON CONFLICT (id) DO UPDATE SET number = excluded.number, claimed = '{}', committed_at = excluded.committed_at
        WHERE w.number < excluded.number;
    IF NOT FOUND THEN
        SELECT w.claimed INTO ids FROM keepstep.writer w WHERE w.id = a_writer AND w.number = a_number;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'claim % of this writer was overtaken', a_number USING ERRCODE = 'KS001';
        END IF;
        RETURN QUERY SELECT r.* FROM keepstep.run r WHERE r.id = ANY (ids) AND r.owner = a_node;
        RETURN;
    END IF;
    -- Not "<> ALL", which compares every run with every one of them.
    ids := ARRAY(
        SELECT r.id FROM keepstep.run r
        WHERE r.owner IS NULL AND r.kind = a_kind AND r.status IN (1, 2) AND r.id NOT IN (SELECT unnest(a_except))
        ORDER BY r.created_at, r.id LIMIT a_limit FOR NO KEY UPDATE SKIP LOCKED);
    FOR gone, was_lost IN
        SELECT n.id, n.lease_until > '-infinity' FROM keepstep.node n WHERE n.lease_until <= clock_timestamp() AND n.id <> a_node
    LOOP
        EXIT WHEN cardinality(ids) >= a_limit;
        part := ARRAY(
            SELECT r.id FROM keepstep.run r
            WHERE r.owner = gone AND r.kind = a_kind AND r.status IN (1, 2) AND r.id NOT IN (SELECT unnest(a_except))
                AND (NOT was_lost OR keepstep.rests_until(r, a_lease) <= clock_timestamp())
            ORDER BY r.created_at, r.id LIMIT a_limit - cardinality(ids) FOR NO KEY UPDATE SKIP LOCKED);
        ids := ids || part;
        IF was_lost THEN
            lost := lost || ARRAY(SELECT r.id FROM keepstep.run r WHERE r.id = ANY (part) AND r.status = 2);
        END IF;
    END LOOP;
    IF cardinality(ids) = 0 THEN
        -- What is locked for a moment, by a message that is sent to it or by somebody who begins to wait for it, is
        -- waited for: it was told of, and will not be again. In the order of their ids, as in a commit, and with
        -- nothing else locked.
        part := ARRAY(
            SELECT r.id FROM keepstep.run r
            WHERE r.owner IS NULL AND r.kind = a_kind AND r.status IN (1, 2) AND r.id NOT IN (SELECT unnest(a_except))
            ORDER BY r.created_at, r.id LIMIT a_limit);
        ids := ARRAY(
            SELECT r.id FROM keepstep.run r WHERE r.id = ANY (part) AND r.owner IS NULL AND r.status IN (1, 2)
            ORDER BY r.id FOR NO KEY UPDATE);
    END IF;
    IF cardinality(ids) > 0 THEN
        PERFORM keepstep.renew(a_node, a_lease, a_address);
        UPDATE keepstep.writer w SET claimed = ids WHERE w.id = a_writer;
    END IF;
    UPDATE keepstep.node n SET takes_runs = true WHERE n.id = a_node AND NOT n.takes_runs;
    RETURN QUERY UPDATE keepstep.run r SET owner = a_node, epoch = r.epoch + 1,
            taken_at = CASE WHEN r.id = ANY (lost) THEN clock_timestamp() ELSE r.taken_at END,
            taken_with = CASE WHEN r.id = ANY (lost) THEN r.steps_done + r.steps_failed ELSE r.taken_with END,
            times_taken = CASE WHEN r.id <> ALL (lost) THEN r.times_taken
                WHEN r.taken_with = r.steps_done + r.steps_failed THEN least(r.times_taken + 1, 100) ELSE 1 END,
            n_orphaned = keepstep.orphaned_by(r, a_node), orphaned_at_entry = r.next_entry
        WHERE r.id = ANY (ids) RETURNING r.*;
END $$;

-- Gives runs up. Of those that their owner declined, every process is told.
CREATE FUNCTION keepstep.release(a_ids text[], a_epochs bigint[], a_declined boolean) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM keepstep.run r WHERE r.id = ANY (a_ids) ORDER BY r.id FOR NO KEY UPDATE;
    -- A commit of the former owner may be under way, and is not to be taken.
    UPDATE keepstep.run r SET owner = NULL, epoch = r.epoch + 1 FROM unnest(a_ids, a_epochs) AS x (id, epoch)
        WHERE r.id = x.id AND r.epoch = x.epoch AND r.owner IS NOT NULL;
    IF FOUND THEN
        PERFORM pg_notify('keepstep', 'free');
        IF a_declined THEN
            PERFORM pg_notify('keepstep', 'declined ' || r.id) FROM keepstep.run r WHERE r.id = ANY (a_ids) AND r.owner IS NULL;
        END IF;
    END IF;
END $$;

-- Numbers of runs that were deleted and had much, which is still to be removed. Nobody finds it any more.
CREATE TABLE keepstep.garbage (
    run_no bigint PRIMARY KEY
);

-- Removes some of what runs had; whether there may be more.
CREATE FUNCTION keepstep.remove_some(a_runs bigint[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    a_limit constant int := 5000;
    n int;
    is_more boolean := false;
BEGIN
    DELETE FROM keepstep.entry x WHERE x.ctid = ANY (ARRAY(
        SELECT k.ctid FROM keepstep.entry k WHERE k.run_no = ANY (a_runs) LIMIT a_limit));
    GET DIAGNOSTICS n = ROW_COUNT;
    is_more := is_more OR n = a_limit;
    DELETE FROM keepstep.value x WHERE x.ctid = ANY (ARRAY(
        SELECT k.ctid FROM keepstep.value k WHERE k.run_no = ANY (a_runs) LIMIT a_limit));
    GET DIAGNOSTICS n = ROW_COUNT;
    is_more := is_more OR n = a_limit;
    DELETE FROM keepstep.message x WHERE x.ctid = ANY (ARRAY(
        SELECT k.ctid FROM keepstep.message k WHERE k.run_no = ANY (a_runs) LIMIT a_limit));
    GET DIAGNOSTICS n = ROW_COUNT;
    is_more := is_more OR n = a_limit;
    DELETE FROM keepstep.message_key x WHERE x.ctid = ANY (ARRAY(
        SELECT k.ctid FROM keepstep.message_key k WHERE k.run_no = ANY (a_runs) LIMIT a_limit));
    GET DIAGNOSTICS n = ROW_COUNT;
    is_more := is_more OR n = a_limit;
    DELETE FROM keepstep.blob_reference x WHERE x.ctid = ANY (ARRAY(
        SELECT k.ctid FROM keepstep.blob_reference k WHERE k.run_no = ANY (a_runs) LIMIT a_limit));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN is_more OR n = a_limit;
END $$;

-- Removes some of what deleted runs had; whether there may be more.
CREATE FUNCTION keepstep.collect() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    run bigint;
BEGIN
    SELECT g.run_no INTO run FROM keepstep.garbage g ORDER BY g.run_no LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- What is there again after a crash of the server is removed again.
    PERFORM set_config('synchronous_commit', 'off', true);
    IF NOT keepstep.remove_some(ARRAY[run]) THEN
        DELETE FROM keepstep.garbage g WHERE g.run_no = run;
    END IF;
    RETURN true;
END $$;

-- Removes runs, whose rows the caller has locked, with everything that belongs to them; if that is much, its rest later.
CREATE FUNCTION keepstep.delete_runs(a_gone bigint[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    -- Those who wait for one elsewhere look at it, and find that it is gone.
    PERFORM pg_notify('keepstep', 'changed ' || r.id) FROM keepstep.run r WHERE r.no = ANY (a_gone) AND r.is_watched;
    DELETE FROM keepstep.run r WHERE r.no = ANY (a_gone);
    -- Before the references to blobs: a result that is being put in adds to them.
    PERFORM keepstep.end_tasks(a_gone, array_fill(0::smallint, ARRAY[cardinality(a_gone)]),
        array_fill(4::smallint, ARRAY[cardinality(a_gone)]));
    IF keepstep.remove_some(a_gone) THEN
        INSERT INTO keepstep.garbage (run_no) SELECT unnest(a_gone);
    END IF;
END $$;

-- Pins a blob for a process, and says whether it is stored already.
CREATE FUNCTION keepstep.begin_blob(a_id bytea, a_size bigint, a_process bigint) RETURNS boolean LANGUAGE sql AS $$
    INSERT INTO keepstep.blob_pin AS p (blob, process, until) VALUES (a_id, a_process, now() + interval '1 day')
        ON CONFLICT (blob, process) DO UPDATE SET until = excluded.until;
    -- Waits for a sweep that has the row, so that the blob is there or is made anew.
    INSERT INTO keepstep.blob AS b (id, size, is_whole) VALUES (a_id, a_size, false)
        ON CONFLICT (id) DO UPDATE SET id = b.id RETURNING b.is_whole
$$;

-- Gives what was streamed in its address.
CREATE FUNCTION keepstep.finish_stream(a_stream bytea, a_id bytea, a_size bigint, a_process bigint) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF NOT keepstep.begin_blob(a_id, a_size, a_process) THEN
        DELETE FROM keepstep.blob_chunk c WHERE c.blob = a_id;
        UPDATE keepstep.blob_chunk c SET blob = a_id WHERE c.blob = a_stream;
        UPDATE keepstep.blob b SET is_whole = true WHERE b.id = a_id;
    END IF;
    DELETE FROM keepstep.blob_chunk c WHERE c.blob = a_stream;
    DELETE FROM keepstep.blob b WHERE b.id = a_stream;
    DELETE FROM keepstep.blob_pin p WHERE p.blob = a_stream;
END $$;

-- Pins blobs for a process, and takes its pins of others away; nothing after a later call, which says all that this one does.
CREATE FUNCTION keepstep.pin(a_pinned bytea[], a_unpinned bytea[], a_process bigint, a_number bigint) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO keepstep.writer AS w (id, number, outcomes, epochs, absent, sent, numbers, unsent, claimed, committed_at)
        VALUES (a_process, a_number, '{}', '{}', '{}', '{}', '{}', '{}', '{}', now())
        ON CONFLICT (id) DO UPDATE SET number = excluded.number, committed_at = excluded.committed_at
        WHERE w.number < excluded.number;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM keepstep.blob_pin p WHERE p.process = a_process AND p.blob = ANY (a_unpinned);
    INSERT INTO keepstep.blob_pin AS p (blob, process, until)
        SELECT x.id, a_process, now() + interval '1 day' FROM unnest(a_pinned) AS x (id)
        ON CONFLICT (blob, process) DO UPDATE SET until = excluded.until;
END $$;

-- Removes some blobs that no run names and no process has pinned, and what is left of streams that broke off, of those after
-- `a_after` in the order of their ids. `next` is where to go on; null at the end.
CREATE FUNCTION keepstep.sweep(a_after bytea, OUT next bytea, OUT removed bigint, OUT bytes bigint, OUT places text[])
    LANGUAGE plpgsql AS $$
DECLARE
    a_limit constant int := 100;
    ids bytea[];
BEGIN
    DELETE FROM keepstep.blob_pin p WHERE p.until < now();
    -- So many are looked at, so that this ends soon where hardly any are to be removed.
    next := (SELECT b.id FROM keepstep.blob b WHERE b.id > a_after ORDER BY b.id OFFSET 9999 LIMIT 1);
    ids := ARRAY(
        SELECT b.id FROM keepstep.blob b
        -- No id is as long.
        WHERE b.id > a_after AND b.id <= coalesce(next, decode(repeat('ff', 33), 'hex'))
            AND NOT EXISTS (SELECT FROM keepstep.blob_reference f WHERE f.blob = b.id)
            AND NOT EXISTS (SELECT FROM keepstep.blob_pin p WHERE p.blob = b.id)
        ORDER BY b.id LIMIT a_limit FOR UPDATE SKIP LOCKED);
    IF cardinality(ids) = a_limit THEN
        next := ids[a_limit];
    END IF;
    -- Whoever names or pins one of them has its row, and may have had it between the look and the lock: what a new look
    -- finds now stays as it is found.
    ids := ARRAY(
        SELECT x.id FROM unnest(ids) AS x (id)
        WHERE NOT EXISTS (SELECT FROM keepstep.blob_reference f WHERE f.blob = x.id)
            AND NOT EXISTS (SELECT FROM keepstep.blob_pin p WHERE p.blob = x.id));
    DELETE FROM keepstep.blob_chunk c WHERE c.blob = ANY (ids);
    WITH gone AS (DELETE FROM keepstep.blob b WHERE b.id = ANY (ids) RETURNING b.size, b.is_whole, b.place)
        SELECT count(*) FILTER (WHERE g.is_whole), coalesce(sum(g.size), 0),
            coalesce(array_agg(g.place) FILTER (WHERE g.place IS NOT NULL), '{}')
            INTO removed, bytes, places FROM gone g;
END $$;

-- What follows is for people.

CREATE FUNCTION keepstep.as_time(micros bigint) RETURNS timestamptz IMMUTABLE LANGUAGE sql AS $$
    SELECT CASE WHEN micros >= 9223372036854775807 THEN 'infinity'
        ELSE timestamptz '1970-01-01 00:00:00+00' + make_interval(secs => micros / 1000000) + (micros % 1000000) * interval '1 microsecond' END
$$;

CREATE FUNCTION keepstep.as_status(status smallint, is_owned boolean) RETURNS text IMMUTABLE LANGUAGE sql AS $$
    SELECT CASE status WHEN 3 THEN 'suspended' WHEN 4 THEN 'successful' WHEN 5 THEN 'failed' WHEN 6 THEN 'canceled'
        ELSE CASE WHEN NOT is_owned THEN 'resumable' WHEN status = 1 THEN 'pending' ELSE 'running' END END
$$;

CREATE VIEW keepstep.runs AS
    SELECT r.id, r.workflow, keepstep.as_status(r.status, n.id IS NOT NULL) AS status, to_hex(r.owner) AS owner,
        n.lease_until, r.epoch, keepstep.as_time(r.created_at) AS created_at, keepstep.as_time(r.started_at) AS started_at,
        keepstep.as_time(r.ended_at) AS ended_at, keepstep.as_time(r.wake_at) AS wake_at,
        r.steps_done, r.steps_failed, r.steps_total, r.journal_bytes, r.next_entry - r.first_entry AS journal_entries,
        (SELECT count(*) FROM keepstep.message m WHERE m.run_no = r.no) AS unread_messages, r.parent_run
    FROM keepstep.run r LEFT JOIN keepstep.node n ON n.id = r.owner AND n.lease_until > now()
    WHERE r.kind = 1;

CREATE VIEW keepstep.actors AS
    SELECT split_part(r.id, E'\x01', 3) AS type, split_part(r.id, E'\x01', 4) AS id, to_hex(r.owner) AS owner, n.lease_until,
        keepstep.as_time(r.created_at) AS created_at, keepstep.as_time(r.wake_at) AS wake_at,
        (SELECT octet_length(v.bytes) FROM keepstep.value v WHERE v.run_no = r.no AND v.kind = 5) AS state_bytes,
        (SELECT count(*) FROM keepstep.message m WHERE m.run_no = r.no) AS unread_messages
    FROM keepstep.run r LEFT JOIN keepstep.node n ON n.id = r.owner AND n.lease_until > now()
    WHERE r.kind = 2;

-- Steps whose output is kept by name. The others are in the journal, whose entries only keepstep reads.
CREATE VIEW keepstep.steps AS
    SELECT r.id AS run, encode(v.name, 'escape') AS step, octet_length(v.bytes) AS output_bytes
    FROM keepstep.value v JOIN keepstep.run r ON r.no = v.run_no WHERE v.kind = 4;

CREATE VIEW keepstep.timers AS
    SELECT replace(ltrim(r.id, E'\x01'), E'\x01', '/') AS id,
        CASE r.kind WHEN 1 THEN 'run' WHEN 2 THEN 'actor' WHEN 3 THEN 'schedule' ELSE r.kind::text END AS kind,
        keepstep.as_time(r.wake_at) AS due_at
    FROM keepstep.run r WHERE r.wake_at IS NOT NULL AND r.status IN (1, 2);
