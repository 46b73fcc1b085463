-- Numbers what was committed, at most so many events. In one statement: nobody who leaves in the middle leaves the feed locked.
-- Each line of it sees what was committed by then.
create function number_events(most bigint) returns void language plpgsql as $$
declare
    last bigint;
    done bigint;
begin
    select last_seq into last from event_feed for update;
    update events e set seq = last + n.place
    from (select id, row_number() over (order by at, id) as place
          from (select id, at from events where seq is null order by id limit most) fresh) n
    where e.id = n.id;
    get diagnostics done = row_count;
    if done > 0 then
        update event_feed set last_seq = last + done;
    end if;
end
$$;
