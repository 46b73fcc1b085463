-- Of which trace that request was a part (W3C Trace Context): what is done for it is a part of the same.
alter table work add column traceparent text;
