# Makes vectors.txt: python3 vectors.py > vectors.txt. Plain Python, nothing but hmac and hashlib.
import hmac,hashlib,struct
def rotl(x,n): return ((x<<n)|(x>>(32-n)))&0xffffffff
def qr(s,a,b,c,d):
    s[a]=(s[a]+s[b])&0xffffffff; s[d]=rotl(s[d]^s[a],16)
    s[c]=(s[c]+s[d])&0xffffffff; s[b]=rotl(s[b]^s[c],12)
    s[a]=(s[a]+s[b])&0xffffffff; s[d]=rotl(s[d]^s[a],8)
    s[c]=(s[c]+s[d])&0xffffffff; s[b]=rotl(s[b]^s[c],7)
def rounds(s):
    for _ in range(10):
        qr(s,0,4,8,12);qr(s,1,5,9,13);qr(s,2,6,10,14);qr(s,3,7,11,15)
        qr(s,0,5,10,15);qr(s,1,6,11,12);qr(s,2,7,8,13);qr(s,3,4,9,14)
C=list(struct.unpack('<4I',b'expand 32-byte k'))
def block(key,ctr,nonce):
    st=C+list(struct.unpack('<8I',key))+[ctr]+list(struct.unpack('<3I',nonce)); w=st[:]; rounds(w)
    return struct.pack('<16I',*[(a+b)&0xffffffff for a,b in zip(w,st)])
def hchacha(key,n16):
    w=C+list(struct.unpack('<8I',key))+list(struct.unpack('<4I',n16)); rounds(w)
    return struct.pack('<8I',*(w[:4]+w[12:]))
def poly(key,msg):
    r=int.from_bytes(key[:16],'little')&0x0ffffffc0ffffffc0ffffffc0fffffff; s=int.from_bytes(key[16:],'little'); a=0
    for i in range(0,len(msg),16): a=(a+int.from_bytes(msg[i:i+16]+b'\1','little'))*r%(2**130-5)
    return ((a+s)&(2**128-1)).to_bytes(16,'little')
def pad(b): return b+bytes(-len(b)%16)
def xseal(key,n,pt,ad):
    k=hchacha(key,n[:16]); n12=bytes(4)+n[16:]
    ct=b''.join(bytes(x^y for x,y in zip(pt[i:i+64],block(k,1+i//64,n12))) for i in range(0,len(pt),64))
    t=poly(block(k,0,n12)[:32],pad(ad)+pad(ct)+struct.pack('<QQ',len(ad),len(ct)))
    return ct+t
# draft-irtf-cfrg-xchacha-03, A.3.1
pt=b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
r=xseal(bytes(range(0x80,0xa0)),bytes(range(0x40,0x58)),pt,bytes.fromhex('50515253c0c1c2c3c4c5c6c7'))
assert r.hex().startswith('bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39') and r.hex().endswith('c0875924c1c7987947deafd8780acf49'), r.hex()
def expand(k,info,n):
    out=b'';t=b'';i=1
    while len(out)<n: t=hmac.new(k,t+info+bytes([i]),hashlib.sha256).digest(); out+=t; i+=1
    return out[:n]
def L(s): return s.encode()+b'\0'
u32=lambda x:struct.pack('>I',x)
M=bytes(range(32)); svc=bytes(range(0xa0,0xb4))
print('''# Sealed control datagrams. Made by vectors.py, in plain Python
# (RFC 5869, RFC 8439, draft-irtf-cfrg-xchacha-03, checked against its A.3.1),
# which shares no code with this package. Hexadecimal; "master" is M of epoch 7.
service = %s
master  = %s'''%(svc.hex(),M.hex()))
def member(M,e): return expand(M,L('icvpn/1 member')+u32(e),32)
K7=member(M,7); M8=expand(M,L('icvpn/1 next'),32); K8=member(M8,8)
print('member7 =',K7.hex()); print('master8 =',M8.hex()); print('member8 =',K8.hex())
for e,K,typ,payload,padto,ms in [(7,K7,1,b'd1:q4:ping1:y1:qe',40,1700000000000),(7,K7,2,b'',0,1700000000001),(8,K8,5,b'reflect',0,1700000000002),(8,K8,4,bytes(range(256))*4,1173,1700000000003)]:
    info=bytes([typ])+svc+u32(e)
    ks=expand(K,L('icvpn/1 seal')+info,32); kid=expand(K,L('icvpn/1 kid')+info,4)
    nonce=hashlib.sha256(b'nonce%d'%typ).digest()[:24]
    ad=bytes(4)+bytes([typ])+kid
    room=max(padto,len(payload))
    pt=struct.pack('>QH',ms,len(payload))+payload+bytes(room-len(payload))
    print(); 
    for n,v in [('epoch',str(e)),('type',str(typ)),('ms',str(ms)),('pad',str(padto)),('payload',payload.hex()),('key',ks.hex()),('kid',kid.hex()),('nonce',nonce.hex()),('datagram',(ad+nonce+xseal(ks,nonce,pt,ad)).hex())]:
        print('%-8s = %s'%(n,v))
