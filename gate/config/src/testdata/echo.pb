
«

echo.protomemgate"1
Words
text (	Rtext
times (Rtimes2Y
Echo%
Say.memgate.Words.memgate.Words*
Listen.memgate.Words.memgate.Words0bproto3