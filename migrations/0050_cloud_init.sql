-- What cloud-init came to in the present power-on, as the guest agent told: null: not seen to have finished; else its errors,
-- mostly none.

alter table instances add column cloud_init_errors text[];
