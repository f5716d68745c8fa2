-- Executions of steps that any worker may do: offered by whoever owns the run, taken by a worker, done. A row stays until the owner
-- has its result in the journal.
--
-- States: 0 offered, 1 taken by `node`, 2 done, 3 done with a result that does not stand: the step could not be executed.
-- `claim` counts how often it was taken, `n_lost` how often a worker was lost that executed it. A worker that has `is_begun` false
-- only holds it. `declined_by` are the workers whose programs could not execute it. Long names are hashed, as names of values are.
CREATE TABLE keepstep.task (
    no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_no bigint NOT NULL,
    step bigint NOT NULL,
    attempt bigint NOT NULL,
    state smallint NOT NULL DEFAULT 0,
    step_name bytea NOT NULL,
    step_version bigint NOT NULL,
    pool text COLLATE "C" NOT NULL,
    priority int NOT NULL,
    limit_key bytea,
    has_key boolean NOT NULL GENERATED ALWAYS AS (limit_key IS NOT NULL) STORED,
    node bigint,
    claim bigint NOT NULL DEFAULT 0,
    n_lost int NOT NULL DEFAULT 0,
    is_begun boolean NOT NULL DEFAULT true,
    declined_by bigint[],
    offered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at timestamptz,
    done_at timestamptz,
    payload bytea NOT NULL,
    result bytea,
    UNIQUE (run_no, step, attempt)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE keepstep.task ALTER COLUMN payload SET STORAGE EXTERNAL, ALTER COLUMN result SET STORAGE EXTERNAL;
-- A lane: the tasks of a step, with keys or without, in the order in which they are taken. How many wait makes no difference to a take.
CREATE INDEX task_waiting ON keepstep.task (pool, step_name, step_version, has_key, priority DESC, no) WHERE state = 0;
CREATE INDEX task_waiting_by_key ON keepstep.task (pool, limit_key, priority DESC, no) WHERE state = 0 AND limit_key IS NOT NULL;
CREATE INDEX task_taken ON keepstep.task (pool, limit_key) WHERE state = 1;
CREATE INDEX task_taken_by_node ON keepstep.task (node) WHERE state = 1;

-- Limits of pools: how many tasks execute at once, in all, and of one key. No limit is null.
CREATE TABLE keepstep.pool (
    name text COLLATE "C" PRIMARY KEY,
    at_once int,
    at_once_per_key int
);

-- Whether a worker that lives takes tasks of a step and has not declined this one, other than `a_node`.
CREATE FUNCTION keepstep.has_other_worker(a_declined_by bigint[], a_node bigint, a_pool text, a_name bytea, a_version bigint)
    RETURNS boolean STABLE LANGUAGE sql AS $$
    SELECT EXISTS (SELECT FROM keepstep.node n
        WHERE n.lease_until > clock_timestamp() AND n.id <> a_node AND n.id <> ALL (coalesce(a_declined_by, '{}'))
            AND n.takes_names IS NOT NULL AND (n.takes_pools IS NULL OR a_pool = ANY (n.takes_pools))
            AND EXISTS (SELECT FROM unnest(n.takes_names, n.takes_versions) AS s (name, version)
                WHERE s.name = a_name AND s.version = a_version))
$$;

-- Whether a node may take a task that some have declined. Who has done so may once there is nobody else: it says what is wrong.
CREATE FUNCTION keepstep.may_take(a_declined_by bigint[], a_node bigint, a_pool text, a_name bytea, a_version bigint)
    RETURNS boolean STABLE LANGUAGE sql AS $$
    SELECT a_node <> ALL (a_declined_by) OR NOT keepstep.has_other_worker(a_declined_by, a_node, a_pool, a_name, a_version)
$$;

-- Offers tasks, and says what is there of each; nothing of one whose run is not the offerer's any more.
CREATE FUNCTION keepstep.offer(
    o_run text[], o_epoch bigint[], o_incarnation bigint[], o_step bigint[], o_attempt bigint[], o_name bytea[], o_version bigint[],
    o_pool text[], o_priority int[], o_key bytea[], o_payload bytea[]
) RETURNS TABLE (n bigint, task bigint, result bytea) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    channel constant text := 'keepstep';
    target record;
BEGIN
    -- Held, so that no run ends before its tasks are there, which go with it.
    PERFORM 1 FROM keepstep.run r WHERE r.id = ANY (o_run) ORDER BY r.id FOR SHARE;
    FOR target IN
        WITH made AS (
            INSERT INTO keepstep.task (run_no, step, attempt, step_name, step_version, pool, priority, limit_key, payload)
            SELECT r.no, o.step, o.attempt, o.name, o.version, o.pool, o.priority, o.key, o.payload
            FROM unnest(o_run, o_epoch, o_incarnation, o_step, o_attempt, o_name, o_version, o_pool, o_priority, o_key, o_payload)
                WITH ORDINALITY AS o (run, epoch, incarnation, step, attempt, name, version, pool, priority, key, payload, n)
            JOIN keepstep.run r ON r.id = o.run
            WHERE r.epoch = o.epoch AND r.incarnation = o.incarnation AND r.status IN (1, 2)
            ORDER BY o.n
            ON CONFLICT DO NOTHING
            RETURNING pool
        )
        SELECT DISTINCT m.pool FROM made m
    LOOP
        PERFORM pg_notify(channel, 'task ' || target.pool);
    END LOOP;
    -- One by one: a run may have many tasks, which are not to be looked through for each.
    RETURN QUERY
        SELECT o.n, t.no, t.result
        FROM unnest(o_run, o_epoch, o_incarnation, o_step, o_attempt)
            WITH ORDINALITY AS o (run, epoch, incarnation, step, attempt, n),
        LATERAL (
            SELECT t.no, t.result FROM keepstep.task t
            WHERE t.run_no = (SELECT r.no FROM keepstep.run r
                    WHERE r.id = o.run AND r.epoch = o.epoch AND r.incarnation = o.incarnation)
                AND t.step = o.step AND t.attempt = o.attempt
            LIMIT 1) t;
END $$;

-- What may be taken of a pool with a limit for each key: the first of each key, as many as there is room for, in all `a_room`.
CREATE FUNCTION keepstep.first_of_keys(
    a_node bigint, a_pool text, a_names bytea[], a_versions bigint[], a_keyed boolean[], a_per_key int, a_room int
) RETURNS bigint[] LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    -- So many are looked at in their order before it is looked for keys. Many keys are found soon so, few the other way.
    a_look constant int := 1000 + 4 * a_room;
    seen bigint;
    found_nos bigint[];
BEGIN
    WITH taken AS (
        SELECT t.limit_key, count(*) AS n FROM keepstep.task t
        WHERE t.pool = a_pool AND t.state = 1 AND t.limit_key IS NOT NULL GROUP BY t.limit_key
    ), first AS MATERIALIZED (
        SELECT x.no, x.priority, x.limit_key FROM unnest(a_names, a_versions, a_keyed) AS l (name, version, keyed), LATERAL (
            SELECT t.no, t.priority, t.limit_key FROM keepstep.task t
            WHERE t.pool = a_pool AND t.step_name = l.name AND t.step_version = l.version AND t.has_key = l.keyed AND t.state = 0
                AND (t.declined_by IS NULL OR keepstep.may_take(t.declined_by, a_node, t.pool, t.step_name, t.step_version))
            ORDER BY t.priority DESC, t.no LIMIT a_look) x
        ORDER BY x.priority DESC, x.no LIMIT a_look
    ), ranked AS (
        SELECT f.no, f.priority, f.limit_key, coalesce(k.n, 0)
            + row_number() OVER (PARTITION BY f.limit_key ORDER BY f.priority DESC, f.no) AS rank
        FROM first f LEFT JOIN taken k ON k.limit_key = f.limit_key
    )
    SELECT (SELECT count(*) FROM first), ARRAY(
            SELECT r.no FROM ranked r WHERE r.limit_key IS NULL OR r.rank <= a_per_key
            ORDER BY r.priority DESC, r.no LIMIT a_room)
        INTO seen, found_nos;
    IF seen < a_look OR cardinality(found_nos) >= a_room THEN
        RETURN found_nos;
    END IF;
    RETURN ARRAY(
        WITH RECURSIVE taken AS (
            SELECT t.limit_key, count(*) AS n FROM keepstep.task t
            WHERE t.pool = a_pool AND t.state = 1 AND t.limit_key IS NOT NULL GROUP BY t.limit_key
        ), keys AS (
            (SELECT t.limit_key FROM keepstep.task t
                WHERE t.pool = a_pool AND t.state = 0 AND t.limit_key IS NOT NULL ORDER BY t.limit_key LIMIT 1)
            UNION ALL
            SELECT x.limit_key FROM keys k, LATERAL (
                SELECT t.limit_key FROM keepstep.task t
                WHERE t.pool = a_pool AND t.state = 0 AND t.limit_key IS NOT NULL AND t.limit_key > k.limit_key
                ORDER BY t.limit_key LIMIT 1) x
        )
        SELECT c.no FROM (
            SELECT x.no, x.priority FROM keys k LEFT JOIN taken n ON n.limit_key = k.limit_key, LATERAL (
                SELECT t.no, t.priority FROM keepstep.task t
                WHERE t.pool = a_pool AND t.limit_key = k.limit_key AND t.state = 0
                    AND EXISTS (SELECT FROM unnest(a_names, a_versions) AS l (name, version)
                        WHERE l.name = t.step_name AND l.version = t.step_version)
                    AND (t.declined_by IS NULL OR keepstep.may_take(t.declined_by, a_node, t.pool, t.step_name, t.step_version))
                ORDER BY t.priority DESC, t.no LIMIT greatest(a_per_key - coalesce(n.n, 0), 0)) x
            UNION ALL
            SELECT x.no, x.priority FROM unnest(a_names, a_versions, a_keyed) AS l (name, version, keyed), LATERAL (
                SELECT t.no, t.priority FROM keepstep.task t
                WHERE t.pool = a_pool AND t.step_name = l.name AND t.step_version = l.version AND NOT t.has_key AND t.state = 0
                    AND (t.declined_by IS NULL OR keepstep.may_take(t.declined_by, a_node, t.pool, t.step_name, t.step_version))
                ORDER BY t.priority DESC, t.no LIMIT a_room) x
            WHERE NOT l.keyed
        ) c ORDER BY c.priority DESC, c.no LIMIT a_room);
END $$;

-- Takes tasks of some pools (null: of all) and some steps for a node.
CREATE FUNCTION keepstep.take(
    a_writer bigint, a_number bigint, a_node bigint, a_lease double precision, a_address text,
    a_pools text[], a_names bytea[], a_versions bigint[], a_limit int
) RETURNS TABLE (task bigint, claim bigint, run text, incarnation bigint, step bigint, attempt bigint, payload bytea, n_lost int)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    nos bigint[];
    l_pool text[];
    l_name bytea[];
    l_version bigint[];
    l_keyed boolean[];
    limited text[] := '{}';
    chosen bigint[] := '{}';
    room int;
    lane record;
    target record;
BEGIN
    -- What was taken need not survive a crash of the server: it is as if it had not been.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- As in a commit; also if nothing is found: an attempt that arrives late would take for nobody.
    INSERT INTO keepstep.writer AS w (id, number, outcomes, epochs, absent, sent, numbers, unsent, claimed, committed_at)
        VALUES (a_writer, a_number, '{}', '{}', '{}', '{}', '{}', '{}', '{}', now())
        ON CONFLICT (id) DO UPDATE SET number = excluded.number, claimed = '{}', committed_at = excluded.committed_at
        WHERE w.number < excluded.number;
    IF NOT FOUND THEN
        SELECT w.claimed::bigint[] INTO nos FROM keepstep.writer w WHERE w.id = a_writer AND w.number = a_number;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'take % of this writer was overtaken', a_number USING ERRCODE = 'KS001';
        END IF;
        RETURN QUERY SELECT t.no, t.claim, r.id, r.incarnation, t.step, t.attempt, t.payload, t.n_lost
            FROM keepstep.task t JOIN keepstep.run r ON r.no = t.run_no
            WHERE t.no = ANY (nos) AND t.state = 1 AND t.node = a_node ORDER BY t.priority DESC, t.no;
        RETURN;
    END IF;

    -- What nodes had whose leases have ended is to be had again. A node that ended its leases itself was not lost.
    UPDATE keepstep.task t SET state = 0, node = NULL,
        n_lost = t.n_lost + (t.is_begun AND EXISTS (SELECT FROM keepstep.node n
            WHERE n.id = t.node AND n.lease_until > '-infinity'))::int
    WHERE t.no = ANY (ARRAY(
        SELECT x.no FROM keepstep.node n JOIN keepstep.task x ON x.node = n.id AND x.state = 1
        WHERE n.lease_until <= clock_timestamp() ORDER BY x.no FOR UPDATE OF x SKIP LOCKED));

    -- The lanes with tasks, by a jump from each to the next, and of them those of this worker.
    WITH RECURSIVE lane AS (
        (SELECT t.pool, t.step_name, t.step_version, t.has_key FROM keepstep.task t WHERE t.state = 0
            ORDER BY t.pool, t.step_name, t.step_version, t.has_key LIMIT 1)
        UNION ALL
        SELECT x.pool, x.step_name, x.step_version, x.has_key FROM lane l, LATERAL (
            SELECT t.pool, t.step_name, t.step_version, t.has_key FROM keepstep.task t
            WHERE t.state = 0
                AND (t.pool, t.step_name, t.step_version, t.has_key) > (l.pool, l.step_name, l.step_version, l.has_key)
            ORDER BY t.pool, t.step_name, t.step_version, t.has_key LIMIT 1) x
    )
    SELECT coalesce(array_agg(l.pool), '{}'), coalesce(array_agg(l.step_name), '{}'), coalesce(array_agg(l.step_version), '{}'),
            coalesce(array_agg(l.has_key), '{}')
        INTO l_pool, l_name, l_version, l_keyed
        FROM lane l JOIN unnest(a_names, a_versions) AS s (name, version) ON s.name = l.step_name AND s.version = l.step_version
        WHERE a_pools IS NULL OR l.pool = ANY (a_pools);

    -- One at a time takes of a pool that has a limit.
    FOR target IN
        SELECT p.name, p.at_once, p.at_once_per_key FROM keepstep.pool p
        WHERE p.name = ANY (l_pool) AND (p.at_once IS NOT NULL OR p.at_once_per_key IS NOT NULL) ORDER BY p.name FOR UPDATE
    LOOP
        limited := limited || target.name;
        room := a_limit;
        IF target.at_once IS NOT NULL THEN
            room := least(room, target.at_once
                - (SELECT count(*) FROM keepstep.task t WHERE t.pool = target.name AND t.state = 1)::int);
        END IF;
        CONTINUE WHEN room <= 0;
        SELECT chosen || CASE WHEN target.at_once_per_key IS NULL THEN ARRAY(
                SELECT x.no FROM unnest(l.names, l.versions, l.keyed) AS k (name, version, keyed), LATERAL (
                    SELECT t.no, t.priority FROM keepstep.task t
                    WHERE t.pool = target.name AND t.step_name = k.name AND t.step_version = k.version
                        AND t.has_key = k.keyed AND t.state = 0
                        AND (t.declined_by IS NULL OR keepstep.may_take(t.declined_by, a_node, t.pool, t.step_name, t.step_version))
                    ORDER BY t.priority DESC, t.no LIMIT room) x
                ORDER BY x.priority DESC, x.no LIMIT room)
            ELSE keepstep.first_of_keys(a_node, target.name, l.names, l.versions, l.keyed, target.at_once_per_key, room) END
            INTO chosen
            FROM (SELECT array_agg(u.name) AS names, array_agg(u.version) AS versions, array_agg(u.keyed) AS keyed
                FROM unnest(l_pool, l_name, l_version, l_keyed) AS u (pool, name, version, keyed) WHERE u.pool = target.name) l;
    END LOOP;

    nos := '{}';
    IF cardinality(l_pool) > 1 OR cardinality(limited) > 0 THEN
        -- The first of all lanes. What others are taking at this moment is left out.
        chosen := ARRAY(
            SELECT c.no FROM (
                SELECT t.no, t.priority FROM keepstep.task t WHERE t.no = ANY (chosen)
                UNION ALL
                SELECT x.no, x.priority FROM unnest(l_pool, l_name, l_version, l_keyed) AS l (pool, name, version, keyed), LATERAL (
                    SELECT t.no, t.priority FROM keepstep.task t
                    WHERE t.pool = l.pool AND t.step_name = l.name AND t.step_version = l.version
                        AND t.has_key = l.keyed AND t.state = 0
                        AND (t.declined_by IS NULL OR keepstep.may_take(t.declined_by, a_node, t.pool, t.step_name, t.step_version))
                    ORDER BY t.priority DESC, t.no LIMIT a_limit) x
                WHERE l.pool <> ALL (limited)
            ) c ORDER BY c.priority DESC, c.no LIMIT a_limit);
        nos := ARRAY(SELECT t.no FROM keepstep.task t WHERE t.no = ANY (chosen) AND t.state = 0
            ORDER BY t.no FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    -- In place of what others are taking, what comes after it.
    FOR lane IN SELECT l.pool, l.name, l.version, l.keyed FROM unnest(l_pool, l_name, l_version, l_keyed) AS l (pool, name, version, keyed)
        WHERE l.pool <> ALL (limited)
    LOOP
        EXIT WHEN cardinality(nos) >= a_limit;
        nos := nos || ARRAY(
            SELECT t.no FROM keepstep.task t
            WHERE t.pool = lane.pool AND t.step_name = lane.name AND t.step_version = lane.version
                AND t.has_key = lane.keyed AND t.state = 0 AND t.no <> ALL (nos)
                AND (t.declined_by IS NULL OR keepstep.may_take(t.declined_by, a_node, t.pool, t.step_name, t.step_version))
            ORDER BY t.priority DESC, t.no LIMIT a_limit - cardinality(nos) FOR NO KEY UPDATE SKIP LOCKED);
    END LOOP;
    -- The row of a node is locked last, as everywhere.
    UPDATE keepstep.node n SET takes_pools = a_pools, takes_names = a_names, takes_versions = a_versions
        WHERE n.id = a_node
            AND (n.takes_pools, n.takes_names, n.takes_versions) IS DISTINCT FROM (a_pools, a_names, a_versions);
    IF cardinality(nos) = 0 THEN
        RETURN;
    END IF;
    UPDATE keepstep.writer w SET claimed = nos::text[] WHERE w.id = a_writer;
    IF NOT EXISTS (SELECT FROM keepstep.node n
        WHERE n.id = a_node AND n.lease_until > clock_timestamp() + make_interval(secs => a_lease / 2))
    THEN
        PERFORM keepstep.renew(a_node, a_lease, a_address);
    END IF;
    RETURN QUERY
        WITH taken AS (
            -- What more than one worker was lost with waits there until it may execute, and does not count until then.
            UPDATE keepstep.task t SET state = 1, node = a_node, claim = t.claim + 1, taken_at = clock_timestamp(),
                is_begun = t.n_lost < 2
            WHERE t.no = ANY (nos) RETURNING t.*
        )
        SELECT t.no, t.claim, r.id, r.incarnation, t.step, t.attempt, t.payload, t.n_lost
        FROM taken t JOIN keepstep.run r ON r.no = t.run_no ORDER BY t.priority DESC, t.no;
END $$;

-- Tells the workers of pools with limits that there may be room again: whoever has made it may not be one that takes of them.
CREATE FUNCTION keepstep.made_room(a_pools text[]) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('keepstep', 'task ' || p.name) FROM keepstep.pool p
    WHERE p.name = ANY (a_pools) AND (p.at_once IS NOT NULL OR p.at_once_per_key IS NOT NULL)
$$;

-- Tells nodes of tasks, some hundred in a message: it has less than 8,000 bytes.
CREATE FUNCTION keepstep.tell_of_tasks(a_word text, a_nodes bigint[], a_tasks bigint[]) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('keepstep', a_word || ' ' || to_hex(x.node) || ' ' || string_agg(to_hex(x.task), ' ')) FROM (
        SELECT t.node, t.task, row_number() OVER (PARTITION BY t.node) / 400 AS part FROM unnest(a_nodes, a_tasks) AS t (node, task)
        WHERE t.node IS NOT NULL) x
    GROUP BY x.node, x.part
$$;

-- Puts results in. Outcomes: 0 accepted, 1 the node holds the task no more, 2 names a blob that is not there, which is in `absent`,
-- 3 left to other workers. A result of state 4 is for those only, if there are any; else it is one of state 3.
CREATE FUNCTION keepstep.finish(
    a_node bigint, f_no bigint[], f_claim bigint[], f_state smallint[], f_result bytea[], b_of int[], b_id bytea[],
    OUT outcomes smallint[], OUT absent bytea[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    stored bytea[] := '{}';
    owners bigint[];
    done bigint[];
    pools text[];
    channel constant text := 'keepstep';
    target record;
BEGIN
    IF cardinality(b_id) > 0 THEN
        -- Before its tasks, as in a commit, which may end one of these runs, and name the same blobs.
        PERFORM 1 FROM keepstep.run r
            WHERE r.no IN (SELECT t.run_no FROM unnest(b_of) AS b (of) JOIN keepstep.task t ON t.no = f_no[b.of])
            ORDER BY r.id FOR SHARE;
    END IF;
    PERFORM 1 FROM keepstep.task t WHERE t.no = ANY (f_no) ORDER BY t.no FOR NO KEY UPDATE;
    IF cardinality(b_id) > 0 THEN
        -- Held, so that none is swept before this is done.
        PERFORM 1 FROM keepstep.blob b WHERE b.id = ANY (b_id) ORDER BY b.id FOR SHARE;
        stored := ARRAY(SELECT b.id FROM keepstep.blob b WHERE b.id = ANY (b_id) AND b.is_whole);
    END IF;
    SELECT array_agg(CASE WHEN t.no IS NULL THEN 1 WHEN x.absent IS NOT NULL THEN 2
                WHEN f.state = 4 AND t.state = 1
                    AND keepstep.has_other_worker(t.declined_by, a_node, t.pool, t.step_name, t.step_version) THEN 3
                ELSE 0 END::smallint ORDER BY f.n),
            array_agg(x.absent ORDER BY f.n)
        INTO outcomes, absent
        FROM unnest(f_no, f_claim, f_state) WITH ORDINALITY AS f (no, claim, state, n)
        LEFT JOIN keepstep.task t ON t.no = f.no AND t.node = a_node AND t.claim = f.claim AND t.state > 0
        LEFT JOIN LATERAL (SELECT b.id AS absent FROM unnest(b_of, b_id) AS b (of, id)
            WHERE b.of = f.n AND b.id NOT IN (SELECT unnest(stored)) LIMIT 1) x ON true;
    WITH done AS (
        UPDATE keepstep.task t SET state = least(f.state, 3), result = f.result, done_at = clock_timestamp()
        FROM unnest(f_no, f_state, f_result, outcomes) AS f (no, state, result, outcome)
        -- Not `= 1`, for which there is an index that would be gone through for each.
        WHERE t.no = f.no AND f.outcome = 0 AND t.state < 2
        RETURNING t.no, t.run_no, t.pool
    )
    SELECT array_agg(CASE WHEN r.owner <> a_node THEN r.owner END), array_agg(d.no), array_agg(DISTINCT d.pool)
        INTO owners, done, pools FROM done d JOIN keepstep.run r ON r.no = d.run_no;
    IF done IS NOT NULL THEN
        PERFORM keepstep.tell_of_tasks('done', owners, done);
        PERFORM keepstep.made_room(pools);
    END IF;
    IF 3 = ANY (outcomes) THEN
        FOR target IN
            WITH declined AS (
                UPDATE keepstep.task t SET state = 0, node = NULL, declined_by = coalesce(t.declined_by, '{}') || a_node
                FROM unnest(f_no, outcomes) AS f (no, outcome) WHERE t.no = f.no AND f.outcome = 3
                RETURNING t.pool
            )
            SELECT DISTINCT d.pool FROM declined d
        LOOP
            PERFORM pg_notify(channel, 'task ' || target.pool);
        END LOOP;
    END IF;
    IF cardinality(b_id) > 0 THEN
        INSERT INTO keepstep.blob_reference (run_no, blob)
            SELECT DISTINCT t.run_no, b.id FROM unnest(b_of, b_id) AS b (of, id) JOIN keepstep.task t ON t.no = f_no[b.of]
            WHERE outcomes[b.of] = 0
            -- Of two results of one run, neither waits for the other.
            ORDER BY 1, 2 ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Gives back what a node holds.
CREATE FUNCTION keepstep.give_back(a_node bigint, g_no bigint[], g_claim bigint[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    channel constant text := 'keepstep';
    target record;
BEGIN
    PERFORM 1 FROM keepstep.task t WHERE t.no = ANY (g_no) ORDER BY t.no FOR NO KEY UPDATE;
    FOR target IN
        WITH given AS (
            UPDATE keepstep.task t SET state = 0, node = NULL FROM unnest(g_no, g_claim) AS g (no, claim)
            WHERE t.no = g.no AND t.claim = g.claim AND t.node = a_node AND t.state < 2 RETURNING t.pool
        )
        SELECT DISTINCT g.pool FROM given g
    LOOP
        PERFORM pg_notify(channel, 'task ' || target.pool);
    END LOOP;
END $$;

-- Removes tasks of runs that are still at these epochs, and tells those who hold them.
CREATE FUNCTION keepstep.remove_tasks(x_no bigint[], x_epoch bigint[], x_also_done boolean[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    holders bigint[];
    held bigint[];
    pools text[];
BEGIN
    -- What is there again after a crash of the server goes with its run.
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM 1 FROM keepstep.task t WHERE t.no = ANY (x_no) ORDER BY t.no FOR UPDATE;
    WITH gone AS (
        DELETE FROM keepstep.task t WHERE t.no = ANY (ARRAY(
            SELECT k.no FROM unnest(x_no, x_epoch, x_also_done) AS x (no, epoch, also_done), LATERAL (
                SELECT t.no, t.run_no, t.state FROM keepstep.task t WHERE t.no = x.no LIMIT 1) k
            WHERE (k.state < 2 OR x.also_done)
                AND x.epoch = (SELECT r.epoch FROM keepstep.run r WHERE r.no = k.run_no)))
        RETURNING t.no, t.node, t.state, t.pool
    )
    SELECT array_agg(g.node), array_agg(g.no), array_agg(DISTINCT g.pool) INTO holders, held, pools FROM gone g WHERE g.state = 1;
    IF held IS NOT NULL THEN
        PERFORM keepstep.tell_of_tasks('stop', holders, held);
        PERFORM keepstep.made_room(pools);
    END IF;
END $$;

-- Removes what runs have here that have ended, or are suspended: of those, results that stand are kept.
CREATE FUNCTION keepstep.end_tasks(a_runs bigint[], a_outcomes smallint[], a_status smallint[]) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    gone bigint[];
    holders bigint[];
    held bigint[];
    pools text[];
BEGIN
    gone := ARRAY(
        SELECT t.no FROM unnest(a_runs, a_outcomes, a_status) AS w (run, outcome, status)
        JOIN keepstep.task t ON t.run_no = w.run AND (w.status > 3 OR t.state <> 2)
        WHERE w.outcome = 0 AND w.status >= 3 ORDER BY t.no FOR UPDATE OF t);
    IF cardinality(gone) > 0 THEN
        WITH gone AS (DELETE FROM keepstep.task t WHERE t.no = ANY (gone) RETURNING t.no, t.node, t.state, t.pool)
        SELECT array_agg(g.node), array_agg(g.no), array_agg(DISTINCT g.pool) INTO holders, held, pools FROM gone g WHERE g.state = 1;
        IF held IS NOT NULL THEN
            PERFORM keepstep.tell_of_tasks('stop', holders, held);
            PERFORM keepstep.made_room(pools);
        END IF;
    END IF;
END $$;

-- For people.
CREATE VIEW keepstep.tasks AS
    SELECT t.no, r.id AS run, t.step, t.attempt, encode(t.step_name, 'escape') AS name, t.step_version AS version,
        t.pool, t.priority, encode(t.limit_key, 'escape') AS key,
        CASE t.state WHEN 0 THEN 'offered' WHEN 1 THEN 'taken' WHEN 2 THEN 'done' ELSE 'not executable' END AS state,
        to_hex(t.node) AS worker, n.address, t.n_lost AS workers_lost,
        coalesce(cardinality(t.declined_by), 0) AS workers_declined, t.offered_at, t.taken_at, t.done_at,
        octet_length(t.payload) AS payload_bytes, octet_length(t.result) AS result_bytes
    FROM keepstep.task t JOIN keepstep.run r ON r.no = t.run_no LEFT JOIN keepstep.node n ON n.id = t.node;
