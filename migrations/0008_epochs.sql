-- Epochs of leases come from one sequence: an item that is forgotten and comes back never has an epoch that somebody still holds.

create sequence work_epoch;
-- Beyond every epoch that was counted by the row.
select setval('work_epoch', coalesce((select max(epoch) from work), 0) + 1);
